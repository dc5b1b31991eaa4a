from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from shoal.engines.base import Logits, Row
from shoal.engines.toy import EOS, ToyEngine, ToyTokenizer
from shoal.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    ModelUnavailable,
    Overloaded,
)
from shoal.messages import Chunk, Generate, Load
from shoal.types import FinishReason, Grammar, ModelName, RequestId, Sampling, TextPrompt, Usage
from shoal.worker.generation import Limits
from shoal.worker.generation.constraint import Constraint, GrammarCompiler
from shoal.worker.generation.intake import MAX_COMPILING, MAX_LONG
from shoal.worker.generation.prepare import LONG, PIECE

Serve = Callable[..., Any]

PROMPT = "once upon a time"


class Gate:
    """Holds the engine in its steps until it is opened, or interrupted."""

    def __init__(self, engine: ToyEngine, *, when: Callable[[Sequence[Row]], bool] = lambda rows: True) -> None:
        self._engine = engine
        self._when = when
        self._loop = asyncio.get_running_loop()
        self._open = threading.Event()
        self.entered = asyncio.Event()
        engine.intervene = self._wait

    def _wait(self, rows: Sequence[Row], logits: Logits) -> None:
        if self._open.is_set() or not self._when(rows):
            return
        self._loop.call_soon_threadsafe(self.entered.set)
        while not self._open.wait(0.001):
            if self._engine.interrupted.is_set():
                raise EngineFailed("interrupted")

    def open(self) -> None:
        self._open.set()


async def outcomes(*asks: Any) -> list[Any]:
    """Answers and errors."""
    return list(await asyncio.gather(*asks, return_exceptions=True))


async def drain(stream: Any) -> list[Chunk]:
    return [chunk async for chunk in stream]


async def until_queued(server: Any, count: int) -> None:
    """So many have passed their preparation and wait for the engine."""
    while len(server.loop._scheduler.waiting) != count:
        await asyncio.sleep(0)


def is_idle(server: Any) -> bool:
    server.loop.check_integrity()
    return bool(server.loop.load() == Load(in_flight=0, waiting=0, kv_used=0.0))


# -- answers


async def test_an_answer_is_as_long_as_asked_and_counts_its_tokens(serve: Serve) -> None:
    answer = await serve().ask(PROMPT, max_tokens=12)
    assert answer.finish_reason is FinishReason.LENGTH
    assert len(answer.tokens) == 12
    assert answer.text == bytes(answer.tokens).decode()
    assert answer.usage == Usage(prompt_tokens=16, completion_tokens=12, cached_tokens=0)


async def test_the_end_of_sequence_ends_it_is_counted_and_is_no_text(serve: Serve) -> None:
    answer = await serve().ask(PROMPT, ignore_eos=False)
    assert answer.finish_reason is FinishReason.STOP
    assert answer.tokens[-1] == EOS
    assert answer.text == bytes(answer.tokens[:-1]).decode()
    assert answer.usage.completion_tokens == len(answer.tokens)


async def test_without_a_length_it_ends_with_the_context(serve: Serve) -> None:
    answer = await serve(engine=ToyEngine(context_length=64)).ask(PROMPT)
    assert answer.finish_reason is FinishReason.LENGTH
    assert answer.usage == Usage(16, 48)


async def test_a_stop_string_over_several_tokens_is_cut_off(serve: Serve) -> None:
    server = serve()
    free = await server.ask(PROMPT, max_tokens=30)
    stop = free.text[10:13]
    answer = await server.ask(PROMPT, max_tokens=30, stop=("never said", stop))
    assert answer.finish_reason is FinishReason.STOP
    assert answer.text == free.text[: free.text.index(stop)]
    assert answer.tokens == free.tokens[: free.text.index(stop) + 3]
    assert answer.usage.completion_tokens == len(answer.tokens)


async def test_a_stop_string_in_the_last_token_counts_more_than_the_length(serve: Serve) -> None:
    server = serve()
    free = await server.ask(PROMPT, max_tokens=5)
    answer = await server.ask(PROMPT, max_tokens=5, stop=(free.text[4],))
    assert answer.finish_reason is FinishReason.STOP


async def test_what_only_began_like_a_stop_string_is_said_at_the_end(serve: Serve) -> None:
    server = serve()
    free = await server.ask(PROMPT, max_tokens=8)
    answer = await server.ask(PROMPT, max_tokens=8, stop=(free.text[-3:] + "!",))
    assert (answer.text, answer.finish_reason) == (free.text, FinishReason.LENGTH)


async def test_logprobs_come_with_their_tokens(serve: Serve) -> None:
    answer = await serve().ask(PROMPT, max_tokens=6, logprobs=3)
    assert [item.token for item in answer.logprobs] == list(answer.tokens)
    for item in answer.logprobs:
        assert item.text == bytes([item.token])
        assert item.top[0] == (item.token, item.text, item.logprob)  # greedy says the likeliest
        assert [logprob for *_, logprob in item.top] == sorted((lp for *_, lp in item.top), reverse=True)
        assert len(item.top) == 3


async def test_a_repeated_prompt_is_not_computed_again(serve: Serve) -> None:
    server = serve()
    first = await server.ask(PROMPT * 5, max_tokens=4)
    computed = sum(len(row.tokens) for step in server.engine.steps for row in step)
    second = await server.ask(PROMPT * 5, max_tokens=4)
    assert (first.usage.cached_tokens, second.usage.cached_tokens) == (0, 64)
    assert first.tokens == second.tokens
    assert sum(len(row.tokens) for step in server.engine.steps for row in step) == 2 * computed - 64


async def test_tenants_do_not_share_what_was_computed(serve: Serve) -> None:
    server, cached = serve(), []
    for tenant in ("", "a", "b", "a"):
        request = Generate(
            RequestId("r"), ModelName("toy"), TextPrompt(PROMPT * 5), Sampling(max_tokens=4), tenant=tenant
        )
        usage = (await drain(server.loop.generate(request)))[-1].usage
        assert usage is not None
        cached.append(usage.cached_tokens)
    assert cached == [0, 0, 0, 64]


async def test_a_long_prompt_does_not_stop_those_who_decode(serve: Serve) -> None:
    server = serve(limits=Limits(step_tokens=64))
    gate = Gate(server.engine)
    short = asyncio.create_task(server.ask("short", max_tokens=40))
    await gate.entered.wait()
    long = asyncio.create_task(server.ask("long" * 150, max_tokens=2))
    await until_queued(server, 1)
    gate.open()
    await asyncio.gather(short, long)
    steps = [sorted(len(row.tokens) for row in step) for step in server.engine.steps]
    assert steps[1:10] == [[1, 32]] * 9
    assert max(map(sum, steps)) <= 64


async def test_a_slow_reader_gets_fewer_chunks_and_stops_nobody(serve: Serve) -> None:
    server = serve()
    slow = server.stream(PROMPT, max_tokens=40)
    first = await anext(slow)
    await server.ask("others", max_tokens=100)
    rest = await drain(slow)
    assert len(rest) == 1
    assert rest[0].finish_reason is FinishReason.LENGTH
    expected = await server.ask(PROMPT, max_tokens=40)
    assert first.tokens + rest[0].tokens == expected.tokens
    assert first.text + rest[0].text == expected.text


# -- refusals


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": "a", "stop": ("x", "")}, "stop"),
        ({"prompt": "a", "stop": ("x",) * 65}, "stop"),
        ({"prompt": "a", "stop": ("x" * 1025,)}, "stop"),
        ({"prompt": "a", "logit_bias": {257: 1.0}}, "logit_bias"),
        ({"prompt": "a", "logit_bias": {97: math.nan}}, "logit_bias"),
        ({"prompt": "a", "logit_bias": {97: -math.inf}}, "logit_bias"),
        ({"prompt": (97, -1)}, "prompt"),
        ({"prompt": (97, 257)}, "prompt"),
        ({"prompt": (2**64 - 1,)}, "prompt"),
        ({"prompt": "a", "output": (97, -1)}, "output"),
        ({"prompt": "a", "output": (257,)}, "output"),
        ({"prompt": "a", "output": (2**64 - 1,)}, "output"),
    ],
)
async def test_what_cannot_be_generated_is_refused(serve: Serve, options: dict[str, Any], param: str) -> None:
    server = serve()
    with pytest.raises(InvalidRequest) as refused:
        await server.ask(**options)
    assert refused.value.param == param
    assert is_idle(server)


@pytest.mark.parametrize("engine", [ToyEngine(context_length=64), ToyEngine(num_blocks=4)], ids=["context", "blocks"])
async def test_a_prompt_that_can_never_fit_is_refused_with_the_limit(serve: Serve, engine: ToyEngine) -> None:
    server = serve(engine=engine)
    with pytest.raises(ContextLengthExceeded, match="has 64 tokens; prompt and answer together may have 64") as refused:
        await server.ask("x" * 64)
    assert refused.value.param == "prompt"
    assert len((await server.ask("x" * 63)).tokens) == 1


async def test_text_that_can_never_fit_is_refused_before_it_is_tokenised(serve: Serve) -> None:
    encoded: list[object] = []
    server = serve(engine=ToyEngine(context_length=64), encode_prompt=encoded.append)
    with pytest.raises(ContextLengthExceeded, match="has 65 characters; at most 64 can fit 64 tokens"):
        await server.ask("x" * 65)
    assert encoded == []


async def test_of_a_long_text_only_what_shows_that_it_cannot_fit_is_tokenised(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []

    def encode(prompt: TextPrompt) -> Sequence[int]:
        encoded.append(len(prompt.text))
        return [97] * (len(prompt.text) // (1 if "x" in prompt.text else 1000))

    monkeypatch.setattr(ToyTokenizer, "token_bytes", lambda tokenizer, token: b"x" * 1000)
    server = serve(engine=ToyEngine(context_length=1024), encode_prompt=encode)
    with pytest.raises(ContextLengthExceeded, match="more than 2048 tokens; prompt and answer together may have 1024"):
        await server.ask("x" * 10 * PIECE)
    assert encoded == [PIECE]
    encoded.clear()
    assert (await server.ask("o" * 10 * PIECE, max_tokens=1)).usage.prompt_tokens == 10 * PIECE // 1000
    assert encoded == [PIECE] * 10 + [10 * PIECE]


async def test_more_than_may_wait_are_refused_at_once(serve: Serve) -> None:
    server = serve(start=False, limits=Limits(max_waiting=3))
    waiting = [asyncio.create_task(server.ask("patience", max_tokens=2)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as refused:
        await server.ask("one too many")
    assert refused.value.retry_after
    server.loop.start()
    assert len(await asyncio.gather(*waiting)) == 3


async def test_nobody_waits_for_the_long_prompts_of_others(serve: Serve) -> None:
    goes_on = threading.Event()

    def encode(prompt: TextPrompt) -> Sequence[int]:
        if len(prompt.text) > LONG:
            goes_on.wait(30)
        return prompt.text[:9].encode()

    server = serve(engine=ToyEngine(context_length=2 * LONG, num_blocks=2 * LONG), encode_prompt=encode)
    long = [asyncio.create_task(server.ask("x" * (LONG + 1), max_tokens=1)) for _ in range(MAX_LONG)]
    await asyncio.sleep(0)
    assert len((await server.ask("x" * LONG, max_tokens=3)).tokens) == 3
    with pytest.raises(Overloaded, match=f"{MAX_LONG} requests are at the step `long prompt`") as refused:
        await server.ask("x" * (LONG + 1))
    assert refused.value.retry_after
    goes_on.set()
    assert len(await asyncio.gather(*long)) == MAX_LONG


async def test_nobody_waits_for_the_grammars_of_others(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on, honest = threading.Event(), GrammarCompiler.compile

    def compile_slowly(compiler: GrammarCompiler, grammar: Grammar) -> Constraint:
        goes_on.wait(30)
        return honest(compiler, grammar)

    server = serve()
    known = Grammar("regex", "yes")
    await server.ask(PROMPT, grammar=known)
    monkeypatch.setattr(GrammarCompiler, "compile", compile_slowly)
    others = [Grammar("regex", f"no {number}") for number in range(MAX_COMPILING)]
    slow = [asyncio.create_task(server.ask(PROMPT, grammar=grammar)) for grammar in others]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len((await server.ask(PROMPT, max_tokens=3)).tokens) == 3
    assert (await server.ask(PROMPT, grammar=known)).text == "yes"
    with pytest.raises(Overloaded, match=f"{MAX_COMPILING} requests are at the step `grammar`") as refused:
        await server.ask(PROMPT, grammar=Grammar("regex", "one too many"))
    assert refused.value.retry_after
    for task in slow:
        task.cancel()
    await asyncio.wait(slow)
    goes_on.set()


async def test_a_request_of_many_prompts_does_not_hold_up_the_next(serve: Serve) -> None:
    server = serve(engine=ToyEngine(max_sequences=4), start=False)
    ended: list[str] = []

    async def ask(name: str, group: str) -> None:
        params = Sampling(temperature=0.0, ignore_eos=True, max_tokens=20)
        request = Generate(RequestId(name), ModelName("toy"), TextPrompt(name), params, group=group)
        await drain(server.loop.generate(request))
        ended.append(name)

    many = [asyncio.create_task(ask(f"many {number}", "many")) for number in range(20)]
    await until_queued(server, 20)
    alone = asyncio.create_task(ask("alone", ""))
    await until_queued(server, 21)
    server.loop.start()
    await asyncio.gather(*many, alone)
    assert ended.index("alone") < 4


async def test_the_generations_of_one_request_compile_their_grammar_once(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, honest = [], GrammarCompiler.compile

    def compile_and_count(compiler: GrammarCompiler, grammar: Grammar) -> Constraint:
        compiled.append(grammar)
        return honest(compiler, grammar)

    monkeypatch.setattr(GrammarCompiler, "compile", compile_and_count)
    server = serve()
    many = [server.ask(PROMPT, grammar=Grammar("regex", "yes|no")) for _ in range(2 * MAX_COMPILING)]
    assert {answer.text for answer in await asyncio.gather(*many)} <= {"yes", "no"}
    assert len(compiled) == 1


# -- leaving


async def test_leaving_while_the_prompt_is_prepared_leaves_nothing(serve: Serve) -> None:
    server = serve()
    task = asyncio.create_task(server.ask(PROMPT))
    await asyncio.sleep(0)
    assert server.loop.load().in_flight == 1
    task.cancel()
    await asyncio.wait([task])
    assert is_idle(server)


async def test_who_leaves_while_the_prompt_is_prepared_does_not_hold_up_others(serve: Serve) -> None:
    began, goes_on = threading.Semaphore(0), threading.Event()

    def encode(prompt: TextPrompt) -> Sequence[int]:
        if prompt.text == "slow":
            began.release()
            goes_on.wait(10)
        return prompt.text.encode()

    server = serve(encode_prompt=encode)
    slow = [asyncio.create_task(server.ask("slow")) for _ in range(100)]
    for _ in range(2):
        await asyncio.to_thread(began.acquire)
    behind = asyncio.create_task(server.ask(PROMPT, max_tokens=3))
    await asyncio.sleep(0)
    for task in slow:
        task.cancel()
    await asyncio.wait(slow)
    assert server.loop.load().in_flight == 1
    goes_on.set()
    assert len((await behind).tokens) == 3
    assert not began.acquire(blocking=False)  # of those who left before their turn, nothing was begun


async def test_closing_answers_those_whose_prompt_is_prepared(serve: Serve) -> None:
    began, goes_on = threading.Semaphore(0), threading.Event()

    def encode(prompt: TextPrompt) -> Sequence[int]:
        began.release()
        goes_on.wait(10)
        return prompt.text.encode()

    server = serve(encode_prompt=encode)
    tasks = [asyncio.create_task(server.ask(PROMPT)) for _ in range(4)]
    for _ in range(2):
        await asyncio.to_thread(began.acquire)
    await server.loop.close()
    goes_on.set()
    assert [type(result) for result in await outcomes(*tasks)] == [ModelUnavailable] * 4


async def test_leaving_while_waiting_leaves_nothing(serve: Serve) -> None:
    server = serve(engine=ToyEngine(max_sequences=1))
    gate = Gate(server.engine)
    first = asyncio.create_task(server.ask(PROMPT, max_tokens=3))
    await gate.entered.wait()
    second = asyncio.create_task(server.ask(PROMPT, max_tokens=3))
    await until_queued(server, 1)
    second.cancel()
    await asyncio.wait([second])
    assert server.loop.load().in_flight == 1
    gate.open()
    assert len((await first).tokens) == 3
    assert is_idle(server)


async def test_leaving_during_a_long_prefill_interrupts_the_engine(serve: Serve) -> None:
    server = serve()
    gate = Gate(server.engine)
    task = asyncio.create_task(server.ask(PROMPT))
    await gate.entered.wait()
    task.cancel()
    await asyncio.wait([task])
    assert is_idle(server)
    # The gate was never opened: only the interruption can have ended the step.
    server.engine.intervene = lambda rows, logits: None
    assert len((await server.ask(PROMPT, max_tokens=3)).tokens) == 3
    assert server.loop.healthy


async def test_leaving_does_not_interrupt_a_step_that_others_want(serve: Serve) -> None:
    server = serve()
    gate = Gate(server.engine, when=lambda rows: len(rows) == 2)
    first = asyncio.create_task(server.ask(PROMPT, max_tokens=200))
    second = asyncio.create_task(server.ask("another prompt" * 3, max_tokens=200))
    await gate.entered.wait()
    second.cancel()
    await asyncio.wait([second])
    assert not server.engine.interrupted.is_set()
    gate.open()
    assert (await first).tokens == (await server.ask(PROMPT, max_tokens=200)).tokens


async def test_leaving_while_decoding_frees_everything_within_the_step(serve: Serve) -> None:
    server = serve()
    stream = server.stream(PROMPT)
    await anext(stream)
    await stream.aclose()
    assert is_idle(server)
    assert len((await server.ask(PROMPT, max_tokens=3)).tokens) == 3
    assert len(server.engine.steps) < 20


async def test_closing_answers_everyone(serve: Serve) -> None:
    server = serve(engine=ToyEngine(max_sequences=1))
    Gate(server.engine)
    tasks = [asyncio.create_task(server.ask(PROMPT)) for _ in range(3)]
    await until_queued(server, 2)
    await server.loop.close()
    assert [type(result) for result in await outcomes(*tasks)] == [ModelUnavailable] * 3
    with pytest.raises(ModelUnavailable):
        await server.ask(PROMPT)
    await server.loop.close()


# -- failures


def has_row_of(length: int) -> Callable[[Sequence[Row]], bool]:
    """Is the sequence with a prompt of this length in the step that computes it?"""
    return lambda rows: any(row.start == 0 and len(row.tokens) == length for row in rows)


@pytest.mark.parametrize("error", [EngineFailed("broken"), InvalidRequest("odd"), RuntimeError("surprise")])
async def test_of_a_step_that_fails_only_the_culprit_fails(serve: Serve, error: Exception) -> None:
    server = serve(start=False)
    culprit = has_row_of(len("culprit"))

    def intervene(rows: Sequence[Row], logits: Logits) -> None:
        if culprit(rows):
            raise error

    expected = serve()
    server.engine.intervene = intervene
    asks = ["innocent one", "culprit", "innocent two"]
    tasks = [asyncio.create_task(server.ask(text, max_tokens=10)) for text in asks]
    await until_queued(server, 3)
    server.loop.start()
    first, second, third = await outcomes(*tasks)
    assert len(server.engine.steps[0]) == 3
    assert isinstance(second, InvalidRequest if isinstance(error, InvalidRequest) else EngineFailed)
    assert first.tokens == (await expected.ask(asks[0], max_tokens=10)).tokens
    assert third.tokens == (await expected.ask(asks[2], max_tokens=10)).tokens
    assert server.loop.healthy
    assert is_idle(server)


async def test_a_row_of_nan_fails_alone(serve: Serve) -> None:
    server = serve()

    def intervene(rows: Sequence[Row], logits: Logits) -> None:
        wanted = [row for row in rows if row.wants_logits]
        for index, row in enumerate(wanted):
            if row.start == 0 and len(row.tokens) == 3:
                logits[index, 5] = np.nan

    server.engine.intervene = intervene
    good, bad = await outcomes(server.ask("fine", max_tokens=5), server.ask("bad", max_tokens=5))
    assert len(good.tokens) == 5
    assert isinstance(bad, EngineFailed)
    assert is_idle(server)


async def test_a_grammar_that_fails_late_fails_alone_and_computes_nothing_again(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(constraint: Constraint) -> None:
        raise InvalidRequest("too much", param="response_format")

    server = serve(start=False)
    monkeypatch.setattr(Constraint, "allowed", fail)
    fine = asyncio.create_task(server.ask(PROMPT, max_tokens=5))
    strict = asyncio.create_task(server.ask(PROMPT, max_tokens=5, grammar=Grammar("json_object")))
    await until_queued(server, 2)
    server.loop.start()
    good, bad = await outcomes(fine, strict)
    assert (len(good.tokens), str(bad)) == (5, "too much")
    assert len(server.engine.steps[0]) == 2
    assert len(server.engine.steps[1]) == 1
    assert server.engine.steps[1][0].start == len(PROMPT)


async def test_a_grammar_that_leaves_no_token_is_the_clients_fault(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    monkeypatch.setattr(
        Constraint, "allowed", lambda constraint: np.zeros(server.engine.tokenizer.vocab_size, np.bool_)
    )
    for _ in range(4):
        with pytest.raises(InvalidRequest, match="leaves no token"):
            await server.ask(PROMPT, grammar=Grammar("json_object"))
    assert server.loop.healthy


async def test_a_failure_late_in_an_answer_comes_after_what_was_said(serve: Serve) -> None:
    server = serve()

    def intervene(rows: Sequence[Row], logits: Logits) -> None:
        if rows[0].start == 20:
            raise EngineFailed("broken")

    server.engine.intervene = intervene
    stream = server.stream(PROMPT, max_tokens=50)
    tokens: list[int] = []
    while len(tokens) < 5:
        tokens += (await anext(stream)).tokens
    with pytest.raises(EngineFailed):
        await anext(stream)


async def test_an_engine_that_keeps_failing_is_reported_once(serve: Serve) -> None:
    reports: list[str] = []
    server = serve(on_unhealthy=reports.append)

    def intervene(rows: Sequence[Row], logits: Logits) -> None:
        raise EngineFailed("broken")

    server.engine.intervene = intervene
    for _ in range(3):
        assert server.loop.healthy
        with pytest.raises(EngineFailed, match="broken"):
            await server.ask(PROMPT)
    with pytest.raises(ModelUnavailable):
        await server.ask(PROMPT)
    assert reports == ["the engine failed 3 steps in a row"]


async def test_numbers_that_cannot_be_sampled_fail_their_request_alone(serve: Serve) -> None:
    server = serve()

    def intervene(rows: Sequence[Row], logits: Logits) -> None:
        logits[:] = math.nan

    server.engine.intervene = intervene
    for _ in range(6):
        with pytest.raises(EngineFailed, match="no token can be chosen"):
            await server.ask(PROMPT)
    server.engine.intervene = lambda rows, logits: None
    assert server.loop.healthy
    assert len((await server.ask(PROMPT, max_tokens=3)).tokens) == 3


async def test_an_engine_that_computes_only_nan_for_everybody_is_reported_once(serve: Serve) -> None:
    reports: list[str] = []
    server = serve(on_unhealthy=reports.append)

    def intervene(rows: Sequence[Row], logits: Logits) -> None:
        logits[:] = math.nan

    server.engine.intervene = intervene
    for prompt in (PROMPT, PROMPT, "another"):
        assert server.loop.healthy
        with pytest.raises(EngineFailed, match="no token can be chosen"):
            await server.ask(prompt)
    with pytest.raises(ModelUnavailable):
        await server.ask(PROMPT)
    assert reports == ["the engine computed nothing but NaN 3 steps in a row"]


@pytest.mark.parametrize("shape", [(1, 300), (2, 257), (257,)])
async def test_logits_of_a_wrong_shape_are_a_failure_of_the_engine(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    server = serve()
    with monkeypatch.context() as patch:
        patch.setattr(server.engine, "step", lambda rows: np.zeros(shape, np.float32))
        with pytest.raises(EngineFailed, match=r"logits of shape .*, not \(1, 257\)"):
            await server.ask(PROMPT)
    assert server.loop.healthy
    assert len((await server.ask(PROMPT, max_tokens=3)).tokens) == 3


async def test_penalties_that_leave_no_token_are_the_clients_fault(serve: Serve) -> None:
    server = serve()

    def intervene(rows: Sequence[Row], logits: Logits) -> None:
        logits[:] = 3e38

    server.engine.intervene = intervene
    for _ in range(4):
        with pytest.raises(InvalidRequest, match="penalties and biases leave no token"):
            await server.ask(PROMPT, repetition_penalty=1e-300)
    assert server.loop.healthy


async def test_a_step_that_never_ends_answers_everyone_and_is_reported(serve: Serve) -> None:
    reports: list[str] = []
    server = serve(engine=ToyEngine(max_sequences=1), limits=Limits(step_seconds=0.05), on_unhealthy=reports.append)
    Gate(server.engine)  # opened by nobody, and by no interruption before the loop is closed
    results = await outcomes(server.ask(PROMPT), server.ask("waits behind it"))
    assert [type(result) for result in results] == [EngineFailed] * 2
    assert reports == ["the engine has not ended its step for 0.05 seconds"]
    assert is_idle(server)
    with pytest.raises(ModelUnavailable):
        await server.ask(PROMPT)


async def test_a_step_that_never_ends_is_noticed_also_when_its_client_has_left(serve: Serve) -> None:
    reported = asyncio.Event()
    server = serve(limits=Limits(step_seconds=0.05), on_unhealthy=lambda reason: reported.set())
    gate = Gate(server.engine, when=lambda rows: rows[0].generated)  # what only decodes is not interrupted
    task = asyncio.create_task(server.ask(PROMPT))
    await gate.entered.wait()
    task.cancel()
    await asyncio.wait_for(reported.wait(), 10)


async def test_a_bug_in_the_loop_itself_answers_everyone_and_is_reported(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[str] = []
    server = serve(on_unhealthy=reports.append)

    def surprise(planned: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(server.loop._scheduler, "commit", surprise)
    with pytest.raises(EngineFailed):
        await server.ask(PROMPT)
    assert reports == ["the server failed while it generated"]
    with pytest.raises(ModelUnavailable):
        await server.ask(PROMPT)


# -- preemption


async def test_when_memory_runs_out_answers_pause_but_do_not_change(serve: Serve) -> None:
    tight = serve(engine=ToyEngine(context_length=128, block_size=16, num_blocks=10))
    roomy = serve()
    prompts = [f"prompt number {number}" for number in range(6)]
    together = await asyncio.gather(*(tight.ask(prompt, max_tokens=70, temperature=1.0) for prompt in prompts))
    for prompt, answer in zip(prompts, together, strict=True):
        assert answer.tokens == (await roomy.ask(prompt, max_tokens=70, temperature=1.0)).tokens
    assert any(row.generated and len(row.tokens) > 1 for step in tight.engine.steps for row in step)


# -- classes, deadlines and what is counted


CASES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "seeded": {"temperature": 1.0, "seed": 5, "top_p": 0.9},
    "penalties and logprobs": {"presence_penalty": 1.0, "repetition_penalty": 1.3, "logprobs": 3},
    "grammar": {"grammar": Grammar("regex", "[a-f]{40}"), "ignore_eos": False, "temperature": 1.0, "seed": 6},
}


@pytest.mark.parametrize("num_blocks", [64, 12], ids=["kept", "recomputed"])
async def test_a_higher_class_comes_first_and_the_others_only_pause(serve: Serve, num_blocks: int) -> None:
    full = serve(engine=ToyEngine(max_sequences=4, num_blocks=num_blocks), start=False)
    alone = serve()
    expected = [await alone.ask(PROMPT, max_tokens=40, **options) for options in CASES.values()]
    gate = Gate(full.engine, when=lambda rows: sum(row.generated for row in rows) == 4)
    low = [asyncio.create_task(full.ask(PROMPT, max_tokens=40, **options)) for options in CASES.values()]
    await until_queued(full, 4)
    full.loop.start()
    await gate.entered.wait()
    high = [asyncio.create_task(full.ask(f"urgent {n}", max_tokens=30, priority=5)) for n in range(2)]
    await until_queued(full, 2)
    gate.open()
    urgent = await asyncio.gather(*high)
    assert sum(task.done() for task in low) <= 2
    for answer, whole in zip(await asyncio.gather(*low), expected, strict=True):
        assert (answer.tokens, answer.text, answer.logprobs) == (whole.tokens, whole.text, whole.logprobs)
    assert [answer.tokens for answer in urgent] == [
        (await alone.ask(f"urgent {n}", max_tokens=30)).tokens for n in range(2)
    ]
    assert full.counts.reasons["priority"] == 2
    assert (full.counts.recomputed > 0) == (num_blocks == 12)
    assert full.counts.parked == 0


async def test_work_of_clients_that_leave_stops_within_a_step(serve: Serve) -> None:
    server = serve(start=False)
    gate = Gate(server.engine, when=lambda rows: sum(row.generated for row in rows) == 5)
    tasks = [asyncio.create_task(server.ask(f"{PROMPT} {n}", max_tokens=60)) for n in range(5)]
    await until_queued(server, 5)
    server.loop.start()
    await gate.entered.wait()
    for task in tasks[:4]:
        task.cancel()
    await asyncio.wait(tasks[:4])
    steps = len(server.engine.steps)
    gate.open()
    await tasks[4]
    assert server.counts.left == 4
    assert server.counts.wasted_rows == 4  # of the step that ran
    assert all(len(step) == 1 for step in list(server.engine.steps)[steps:])


async def test_a_prompt_that_takes_longer_than_there_is_time_is_refused_before_it_is_computed(serve: Serve) -> None:
    server = serve(limits=Limits(step_tokens=64))
    for _ in range(3):
        server.loop._scheduler.pace.observe(64, 1.0)
    at = asyncio.get_running_loop().time()
    prompt = "a" * 640
    with pytest.raises(DeadlineExceeded, match="a prompt of 640 tokens cannot be computed in the time that is left"):
        await server.ask(prompt, deadline=at + 9)
    assert not server.engine.steps
    assert len((await server.ask(prompt, deadline=at + 60, max_tokens=2)).tokens) == 2
    # Its prefix is known now: what is left of it takes no time.
    assert len((await server.ask(prompt, deadline=at + 9, max_tokens=2)).tokens) == 2


async def test_a_request_that_has_waited_too_long_is_refused_when_its_turn_comes(serve: Serve) -> None:
    server = serve(engine=ToyEngine(max_sequences=1))
    gate = Gate(server.engine)
    first = asyncio.create_task(server.ask(PROMPT, max_tokens=2))
    await gate.entered.wait()
    second = asyncio.create_task(server.ask("waits too long", deadline=asyncio.get_running_loop().time() + 60))
    await until_queued(server, 1)
    for sequence in server.loop._scheduler.waiting:
        sequence.deadline = sequence.arrived
    gate.open()
    await first
    with pytest.raises(DeadlineExceeded):
        await second
    assert len(server.engine.steps) == 2
