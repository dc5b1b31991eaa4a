"""Whatever happens around an answer, its tokens are those it has alone."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.engines.toy import ToyEngine
from shoal.messages import Generate
from shoal.types import ModelName, RequestId, Sampling, TokenPrompt
from shoal.worker.generation import GenerationLoop, Limits
from shoal.worker.generation.blocks import block_keys
from shoal.worker.generation.preemption import PROMOTION
from shoal.worker.generation.sampler import Sampled
from shoal.worker.generation.scheduler import Scheduler
from shoal.worker.generation.sequence import TokenSequence
from shoal.worker.generation.stepper import Step, Stepper

BASES = [tuple(random.Random(seed).choices(range(97, 123), k=160)) for seed in range(2)]
CONTEXT = 256

SAMPLINGS = (
    Sampling(temperature=0.0),
    Sampling(seed=7),
    Sampling(seed=8, top_p=0.8, presence_penalty=0.5, repetition_penalty=1.3),
)


@dataclass(frozen=True)
class Wish:
    base: int
    prefix: int
    suffix: tuple[int, ...]
    sampling: int
    length: int
    arrives: int = field(compare=False)  # in which step
    leaves: int | None = field(compare=False)  # after how many steps, if it is aborted
    priority: int = field(default=0, compare=False)

    @property
    def prompt(self) -> tuple[int, ...]:
        return BASES[self.base][: self.prefix] + self.suffix


wishes = st.builds(
    Wish,
    base=st.integers(0, 1),
    prefix=st.sampled_from([0, 1, 31, 32, 33, 63, 64, 70, 96, 100, 128, 160]),
    suffix=st.lists(st.integers(97, 122), min_size=1, max_size=3).map(tuple),
    sampling=st.integers(0, 2),
    length=st.integers(1, 40),
    arrives=st.integers(0, 40),
    leaves=st.none() | st.integers(0, 30),
    priority=st.integers(-2, 2),
)


@dataclass
class Bench:
    """Scheduler and engine without the shell around them."""

    engine: ToyEngine
    step_tokens: int

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.engine.capabilities, Limits(step_tokens=self.step_tokens))
        self.stepper = Stepper(self.engine)
        self.seconds = 0.0

    def sequence(self, wish: Wish) -> TokenSequence:
        share, size = self.engine.capabilities.share_prefixes, self.engine.capabilities.block_size
        keys = block_keys(wish.prompt, size, b"") if share else ()
        length = len(wish.prompt) + wish.length
        return TokenSequence(wish.prompt, SAMPLINGS[wish.sampling], length, keys, priority=wish.priority)

    def step(self) -> bool:
        self.seconds += PROMOTION / 20  # so that age counts too
        rows = self.scheduler.plan(self.seconds)
        if not rows:
            self.scheduler.check_idle()
            return False
        for planned, outcome in zip(rows, self.stepper.run(Step(rows)), strict=True):
            assert outcome is None or isinstance(outcome, Sampled), outcome
            self.scheduler.commit(planned)
            if outcome and planned.sequence.append(outcome.token, frozenset()):
                self.scheduler.remove(planned.sequence)
        self.scheduler.check_integrity()
        return True

    def run(self, wished: list[Wish]) -> list[list[int]]:
        sequences = [self.sequence(wish) for wish in wished]
        number, busy = 0, True
        while busy or number <= 80:
            for wish, sequence in zip(wished, sequences, strict=True):
                if wish.arrives == number:
                    sequence.arrived = self.seconds
                    self.scheduler.submit(sequence)
                if wish.leaves is not None and wish.arrives + wish.leaves == number:
                    self.scheduler.remove(sequence)
            busy = self.step()
            number += 1
        assert not self.engine.violations
        return [sequence.output for sequence in sequences]


@cache
def alone(wish: Wish) -> list[int]:
    """In one block, in one go."""
    engine = ToyEngine(context_length=CONTEXT, block_size=CONTEXT, num_blocks=1, share_prefixes=False)
    bench = Bench(engine, step_tokens=512)
    sequence = bench.sequence(wish)
    bench.scheduler.submit(sequence)
    while bench.step():
        pass
    assert len(sequence.output) == wish.length
    return sequence.output


def check(wished: list[Wish], outputs: list[list[int]]) -> None:
    for wish, output in zip(wished, outputs, strict=True):
        expected = alone(wish)
        assert output == expected[: len(output)]
        assert wish.leaves is not None or output == expected


@settings(max_examples=120, deadline=None)
@given(
    wished=st.lists(wishes, min_size=1, max_size=8),
    block_size=st.sampled_from([4, 16, 32, 48]),
    spare=st.integers(0, 8),
    step_tokens=st.sampled_from([33, 40, 64, 100, 512]),
    max_sequences=st.integers(1, 8),
    share=st.booleans(),
    max_generated=st.sampled_from([1, 2, 7, 512]),
)
def test_company_blocks_chunks_and_preemption_change_no_token(
    wished: list[Wish],
    block_size: int,
    spare: int,
    step_tokens: int,
    max_sequences: int,
    share: bool,
    max_generated: int,
) -> None:
    longest = max(len(wish.prompt) + wish.length for wish in wished)
    engine = ToyEngine(
        context_length=CONTEXT,
        block_size=block_size,
        num_blocks=-(-longest // block_size) + spare,  # just enough for one alone, and a little
        max_sequences=max_sequences,
        share_prefixes=share,
        max_generated=max_generated,
    )
    check(wished, Bench(engine, step_tokens).run(wished))


@settings(max_examples=25, deadline=None)
@given(
    wished=st.lists(wishes, min_size=1, max_size=8),
    num_blocks=st.integers(1, 3),
    step_tokens=st.sampled_from([40, 512]),
)
def test_engines_with_a_block_a_sequence_give_the_same_tokens(
    wished: list[Wish], num_blocks: int, step_tokens: int
) -> None:
    engine = ToyEngine(
        context_length=CONTEXT, block_size=CONTEXT, num_blocks=num_blocks, max_sequences=8, share_prefixes=False
    )
    check(wished, Bench(engine, step_tokens).run(wished))


def test_these_tests_do_preempt_and_share() -> None:
    wished = [Wish(0, 64, (97 + number,), 1, 40, number, None) for number in range(4)]
    bench = Bench(ToyEngine(context_length=CONTEXT, block_size=16, num_blocks=9), step_tokens=64)
    check(wished, bench.run(wished))
    assert bench.scheduler.preempted["memory"] >= 2
    assert bench.scheduler.recomputed > 60
    bench = Bench(ToyEngine(context_length=CONTEXT, block_size=16, num_blocks=64), step_tokens=64)
    check(wished, bench.run(wished))
    assert not bench.scheduler.preempted
    assert sum(len(row.tokens) for step in bench.engine.steps for row in step) < 64 + 4 * 42


def test_those_of_a_low_class_give_way_and_keep_their_tokens_and_what_was_computed_of_them() -> None:
    low = [Wish(0, 64, (97 + number,), number % 3, 40, 0, None) for number in range(4)]
    high = [Wish(1, 70, (97 + number,), 1, 10, 8 + number, None, priority=5) for number in range(2)]
    bench = Bench(ToyEngine(context_length=CONTEXT, block_size=16, num_blocks=64, max_sequences=4), step_tokens=512)
    check([*low, *high], bench.run([*low, *high]))
    assert bench.scheduler.preempted["priority"] == 2
    assert bench.scheduler.recomputed == 0
    tight = Bench(ToyEngine(context_length=CONTEXT, block_size=16, num_blocks=16, max_sequences=4), step_tokens=512)
    check([*low, *high], tight.run([*low, *high]))
    assert tight.scheduler.preempted["priority"] >= 2
    assert tight.scheduler.recomputed > 0


async def through_the_loop(wished: list[Wish], engine: ToyEngine, limits: Limits) -> list[list[int]]:
    loop = GenerationLoop(engine, encode_prompt=lambda prompt: prompt.tokens, limits=limits)  # type: ignore[union-attr]
    loop.start()

    async def one(wish: Wish) -> list[int]:
        for _ in range(wish.arrives):
            await asyncio.sleep(0)
        sampling: Any = SAMPLINGS[wish.sampling]
        params = Sampling(
            **{f: getattr(sampling, f) for f in sampling.__struct_fields__}
            | {"max_tokens": wish.length, "ignore_eos": True}
        )
        prompt = TokenPrompt(wish.prompt)
        request = Generate(RequestId("r"), ModelName("toy"), prompt, params, priority=wish.priority)
        tokens: list[int] = []
        stream = loop.generate(request)
        async for chunk in stream:
            tokens += chunk.tokens
            if wish.leaves is not None and len(tokens) > wish.leaves:
                break
        await stream.aclose()
        return tokens

    outputs = await asyncio.gather(*map(one, wished))
    assert loop.load().in_flight == 0
    assert loop.load().kv_used == 0
    loop.check_integrity()
    await loop.close()
    assert not engine.violations
    return outputs


@settings(max_examples=25, deadline=None)
@given(wished=st.lists(wishes, min_size=1, max_size=8), spare=st.integers(0, 8), step_tokens=st.sampled_from([40, 512]))
def test_clients_that_come_and_go_change_no_token_of_others(wished: list[Wish], spare: int, step_tokens: int) -> None:
    longest = max(len(wish.prompt) + wish.length for wish in wished)
    engine = ToyEngine(context_length=CONTEXT, block_size=16, num_blocks=-(-longest // 16) + spare)
    check(wished, asyncio.run(through_the_loop(wished, engine, Limits(step_tokens=step_tokens))))
