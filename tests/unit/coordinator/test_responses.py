from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry, generate_latest

from shoal.clock import now
from shoal.config import ModelConfig, ResponseCacheConfig
from shoal.coordinator import responses as module
from shoal.coordinator.disk_tier import DiskTier
from shoal.coordinator.observation import Observation, watch_source
from shoal.coordinator.responses import Asked, Responses
from shoal.errors import DeadlineExceeded, EngineFailed, Overloaded, ShoalError
from shoal.messages import Answer, Generate, Infer, Inferred
from shoal.model_registry import ModelSpec
from shoal.telemetry import CoordinatorMetrics, ResponseCacheMetrics
from shoal.types import ModelKind, ModelName, RequestId, Sampling, TextPrompt

CACHE = ResponseCacheConfig(ttl=60.0)


class Dispatcher:
    """Answers with the parts it was given, and counts."""

    def __init__(self) -> None:
        self.calls = 0
        self.cut = 0
        self.parts = 1
        self.size = 8  # bytes of a part
        self.fallback = ""
        self.error: ShoalError | None = None
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def infer(self, request: Infer, spec: ModelSpec, deadline: float, observation: Observation) -> Inferred:
        async with aclosing(self.answer(request, spec, deadline, observation)) as answers:
            answer = await anext(answers)
            assert isinstance(answer, Inferred)
            return answer

    async def answer(
        self, request: Generate | Infer, spec: ModelSpec, deadline: float, observation: Observation
    ) -> AsyncGenerator[Answer, None]:
        self.calls += 1
        try:
            for index in range(self.parts):
                await self.go_on.wait()
                await asyncio.sleep(0)
                last = index == self.parts - 1 and not self.error
                yield Inferred({"y": np.full(self.size, index, np.uint8)}, last, self.fallback)
            if self.error is not None:
                raise self.error
        except (GeneratorExit, asyncio.CancelledError):
            self.cut += 1
            raise


class Rig:
    def __init__(self, disk: DiskTier | None = None, **settings: Any) -> None:
        self.registry = CollectorRegistry()
        self.metrics = CoordinatorMetrics(self.registry, is_known=lambda name: True)
        self.dispatcher = Dispatcher()
        self.responses = Responses(
            self.dispatcher, max_entries=100, max_bytes=2**20, metrics=ResponseCacheMetrics(self.registry), disk=disk
        )
        self.spec = ModelSpec(name=ModelName("m"), kind=ModelKind.TENSOR, settings=ModelConfig(**settings))

    def stream(self, request: Generate | Infer, timeout: float = 5.0) -> AsyncGenerator[Answer, None]:
        key = self.responses.key(request, self.spec)
        asked = Asked(key or b"", request, self.spec, now() + timeout, Observation(self.metrics, "m"))
        return self.responses.answer(asked)

    async def ask(self, request: Generate | Infer, timeout: float = 5.0) -> list[int]:
        """The numbers of the parts."""
        async with aclosing(self.stream(request, timeout)) as answers:
            return [int(part.outputs["y"][0]) async for part in answers if isinstance(part, Inferred)]

    def once(self, request: Infer, timeout: float = 5.0) -> asyncio.Task[int]:
        """The number of the one answer, or of its first part."""
        key = self.responses.key(request, self.spec)
        asked = Asked(key or b"", request, self.spec, now() + timeout, Observation(self.metrics, "m"))

        async def number() -> int:
            return int((await self.responses.infer(asked)).outputs["y"][0])

        return asyncio.create_task(number())

    def metric(self, name: str) -> float:
        lines = generate_latest(self.registry).decode().splitlines()
        return float(next(line for line in lines if line.startswith(f"shoal_response_cache_{name}")).split()[-1])


def infer(number: int = 0, **fields: Any) -> Infer:
    return Infer(RequestId("r"), ModelName("m"), {"x": np.array([number])}, **fields)


def generate(**sampling: Any) -> Generate:
    return Generate(RequestId("r"), ModelName("m"), TextPrompt("fish"), Sampling(**sampling))


async def test_without_its_configuration_a_model_has_neither_cache_nor_coalescing() -> None:
    rig = Rig()
    assert rig.responses.key(infer(), rig.spec) is None
    assert await asyncio.gather(*(rig.ask(infer()) for _ in range(3))) == [[0]] * 3
    assert rig.dispatcher.calls == 3


@pytest.mark.parametrize("coalesce", [False, True])
async def test_the_second_identical_request_is_a_hit_and_another_is_not(coalesce: bool) -> None:
    rig = Rig(cache=CACHE, coalesce=coalesce)
    rig.dispatcher.parts = 3
    assert [await rig.ask(infer(1)), await rig.ask(infer(1))] == [[0, 1, 2]] * 2
    assert rig.dispatcher.calls == 1
    await rig.ask(infer(2))
    await rig.ask(infer(1, tenant="other"))
    assert rig.dispatcher.calls == 3
    assert rig.metric('hits_total{model="m",tier="memory"}') == 1
    assert rig.metric('misses_total{model="m"}') == 3
    assert rig.metric('entries{tier="memory"}') == 3
    assert rig.metric('bytes{tier="memory"}') > 100
    assert rig.metric('evictions_total{tier="memory"}') == 0


async def test_coalescing_alone_keeps_nothing() -> None:
    rig = Rig(coalesce=True)
    await asyncio.gather(rig.ask(infer()), rig.ask(infer()))
    assert rig.dispatcher.calls == 1
    await rig.ask(infer())
    assert rig.dispatcher.calls == 2
    assert rig.metric('coalesced_total{model="m"}') == 1
    assert rig.metric('entries{tier="memory"}') == 0


async def test_a_cache_alone_shares_no_run() -> None:
    rig = Rig(cache=CACHE)
    await asyncio.gather(rig.ask(infer()), rig.ask(infer()))
    assert rig.dispatcher.calls == 2


def test_a_drawn_answer_is_kept_only_where_the_configuration_says_so() -> None:
    async def scenario() -> None:
        rig, lax = Rig(cache=CACHE), Rig(cache=replace(CACHE, any_request=True))
        drawn, greedy, seeded = generate(), generate(temperature=0.0), generate(seed=3)
        assert [rig.responses.key(request, rig.spec) is None for request in (drawn, greedy, seeded)] == [
            True,
            False,
            False,
        ]
        assert lax.responses.key(drawn, lax.spec) is not None

    asyncio.run(scenario())


@pytest.mark.parametrize("coalesce", [False, True])
async def test_errors_and_halves_are_not_kept(coalesce: bool) -> None:
    rig = Rig(cache=CACHE, coalesce=coalesce)
    rig.dispatcher.error = EngineFailed("broken")
    with pytest.raises(EngineFailed, match="broken"):
        await rig.ask(infer())
    rig.dispatcher.error, rig.dispatcher.parts = None, 3
    async with aclosing(rig.stream(infer())) as answers:
        await anext(answers)
    await asyncio.sleep(0.01)
    assert rig.dispatcher.cut == 1
    assert await rig.ask(infer()) == [0, 1, 2]
    assert rig.dispatcher.calls == 3


@pytest.mark.parametrize("coalesce", [False, True])
async def test_who_leaves_after_the_last_part_leaves_a_whole_answer(coalesce: bool) -> None:
    rig = Rig(cache=CACHE, coalesce=coalesce)
    async with aclosing(rig.stream(infer())) as answers:
        await anext(answers)  # as one does who knows that it is the last
    await rig.ask(infer())
    assert rig.dispatcher.calls == 1


@pytest.mark.parametrize("coalesce", [False, True])
async def test_an_answer_of_a_fallback_model_is_not_kept(coalesce: bool) -> None:
    rig = Rig(cache=CACHE, coalesce=coalesce)
    rig.dispatcher.fallback = "other@1"
    assert [await rig.ask(infer()), await rig.ask(infer())] == [[0]] * 2
    assert rig.dispatcher.calls == 2


@pytest.mark.parametrize("coalesce", [False, True])
async def test_a_large_answer_reaches_its_client_and_is_not_kept(coalesce: bool) -> None:
    rig = Rig(cache=CACHE, coalesce=coalesce)
    rig.dispatcher.parts, rig.dispatcher.size = 5, module.MAX_ANSWER // 3
    assert [await rig.ask(infer()), await rig.ask(infer())] == [[0, 1, 2, 3, 4]] * 2
    assert rig.dispatcher.calls == 2
    assert rig.metric('entries{tier="memory"}') == 0


async def test_nobody_joins_an_answer_whose_beginning_may_be_gone() -> None:
    rig = Rig(coalesce=True)
    rig.dispatcher.parts, rig.dispatcher.size = 5, module.MAX_ANSWER // 3
    async with aclosing(rig.stream(infer())) as first:
        for _ in range(4):
            await anext(first)
        assert await rig.ask(infer()) == [0, 1, 2, 3, 4]
        assert rig.dispatcher.calls == 2
        assert [part async for part in first]


async def test_of_a_large_shared_answer_a_reader_that_stands_still_is_let_go() -> None:
    rig = Rig(coalesce=True)
    rig.dispatcher.parts, rig.dispatcher.size = 9, module.MAX_ANSWER // 3
    async with aclosing(rig.stream(infer())) as slow:
        fast = asyncio.create_task(rig.ask(infer()))
        await anext(slow)
        assert await fast == list(range(9))
        with pytest.raises(Overloaded, match="too slowly"):
            await anext(slow)
    assert rig.dispatcher.calls == 1


async def test_a_single_slow_reader_of_a_large_answer_holds_the_run_back() -> None:
    rig = Rig(coalesce=True)
    rig.dispatcher.parts, rig.dispatcher.size = 20, module.MAX_ANSWER // 3
    numbers = []
    async with aclosing(rig.stream(infer())) as answers:
        async for part in answers:
            assert isinstance(part, Inferred)
            numbers.append(int(part.outputs["y"][0]))
            await asyncio.sleep(0.005)
    assert numbers == list(range(20))


async def test_a_kept_answer_that_cannot_be_read_any_more_is_computed_anew() -> None:
    rig = Rig(cache=CACHE)
    key = rig.responses.key(infer(), rig.spec)
    assert key is not None
    rig.responses._memory.set(key, b"\xc1")
    assert [await rig.ask(infer()), await rig.ask(infer())] == [[0]] * 2
    assert rig.dispatcher.calls == 1


@pytest.mark.parametrize(("before", "expected"), [(["x"], "hit"), ([], "miss"), (["y", "x"], "hit")])
async def test_a_surface_learns_how_the_answer_came_about(before: list[str], expected: str) -> None:
    rig = Rig(cache=CACHE, coalesce=True)
    for number in before:
        await rig.ask(infer(ord(number)))
    source = watch_source()
    await rig.ask(infer(ord("x")))
    assert source.cache == expected


async def test_of_several_runs_for_one_request_a_miss_is_what_counts() -> None:
    rig = Rig(cache=CACHE, coalesce=True)
    await rig.ask(infer(1))
    source = watch_source()
    await asyncio.gather(*(rig.ask(infer(number)) for number in (1, 2, 1)))
    assert source.cache == "miss"


async def test_what_memory_has_lost_comes_back_from_the_disk(tmp_path: Path, until: Callable[..., Any]) -> None:
    disk = DiskTier(tmp_path / "cache.db", max_bytes=2**20)
    rig = Rig(disk, cache=CACHE, coalesce=True)
    rig.responses.start()
    await until(lambda: not repr(disk).endswith("off>"))
    await rig.ask(infer(1))
    await until(lambda: disk.size.entries == 1)
    rig.responses._memory.clear()
    both = [rig.ask(infer(1)), rig.ask(infer(1))]
    assert await asyncio.gather(*both) == [[0]] * 2
    assert await rig.ask(infer(1)) == [0]
    assert rig.dispatcher.calls == 1
    assert rig.metric('hits_total{model="m",tier="disk"}') >= 1
    assert rig.metric('hits_total{model="m",tier="memory"}') >= 1
    assert rig.metric('entries{tier="disk"}') == 1
    await rig.responses.close()
    again = Rig(DiskTier(tmp_path / "cache.db", max_bytes=2**20), cache=CACHE)
    again.responses.start()
    await until(lambda: again.metric('entries{tier="disk"}') == 1)
    assert await again.ask(infer(1)) == [0]
    assert again.dispatcher.calls == 0
    again.responses._memory.clear()
    forgotten = again.responses.forget(again.spec.id)  # at once: the disk may take its time
    await again.ask(infer(1))
    assert again.dispatcher.calls == 1
    await forgotten
    await again.ask(infer(2))
    await until(lambda: again.metric('entries{tier="disk"}') >= 1)
    again.responses.forget(again.spec.id)
    await again.responses.close()  # not before that is done
    last = Rig(disk := DiskTier(tmp_path / "cache.db", max_bytes=2**20), cache=CACHE)
    last.responses.start()
    await until(lambda: not repr(disk).endswith("off>"))
    assert disk.size.entries == 0
    await last.responses.close()


# -- one answer


async def settle() -> None:
    """Let everything happen that needs no time."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize("coalesce", [False, True])
async def test_one_answer_is_kept_for_those_who_want_it_whole_or_in_parts(coalesce: bool) -> None:
    rig = Rig(cache=CACHE, coalesce=coalesce)
    assert [await rig.once(infer()), await rig.once(infer())] == [0, 0]
    assert await rig.ask(infer()) == [0]
    assert rig.dispatcher.calls == 1
    assert rig.metric('hits_total{model="m",tier="memory"}') == 2
    assert rig.metric('misses_total{model="m"}') == 1


async def test_the_first_part_of_an_answer_is_not_kept_for_the_whole() -> None:
    for coalesce in (False, True):
        rig = Rig(cache=CACHE, coalesce=coalesce)
        rig.dispatcher.parts = 3
        assert await rig.once(infer()) == 0
        assert rig.metric('entries{tier="memory"}') == 0
        assert await rig.ask(infer()) == [0, 1, 2]


async def test_an_answer_too_large_to_keep_is_given_all_the_same() -> None:
    for coalesce in (False, True):
        rig = Rig(cache=CACHE, coalesce=coalesce)
        rig.dispatcher.size = module.MAX_ANSWER + 1
        assert await rig.once(infer()) == 0
        assert rig.metric('entries{tier="memory"}') == 0


async def test_who_leaves_a_run_for_one_answer_hurts_nobody_and_the_last_one_ends_it() -> None:
    rig = Rig(coalesce=True)
    rig.dispatcher.go_on.clear()
    leader, follower = rig.once(infer()), rig.once(infer())
    await settle()
    leader.cancel()
    await settle()
    rig.dispatcher.go_on.set()
    assert await follower == 0
    assert rig.dispatcher.calls == 1

    rig.dispatcher.go_on.clear()
    before, last = rig.dispatcher.cut, rig.once(infer())
    await settle()
    last.cancel()
    await settle()
    assert rig.dispatcher.cut == before + 1


async def test_who_wants_all_parts_does_not_join_a_run_for_one_answer() -> None:
    rig = Rig(coalesce=True)
    rig.dispatcher.parts = 3
    first, every = rig.once(infer()), asyncio.create_task(rig.ask(infer()))
    assert (await first, await every) == (0, [0, 1, 2])
    assert rig.dispatcher.calls == 2


async def test_who_wants_one_answer_joins_a_run_in_parts() -> None:
    rig = Rig(coalesce=True)
    rig.dispatcher.parts = 3
    rig.dispatcher.go_on.clear()
    every = asyncio.create_task(rig.ask(infer()))
    await asyncio.sleep(0)
    first = rig.once(infer())
    await asyncio.sleep(0)
    rig.dispatcher.go_on.set()
    assert (await first, await every) == (0, [0, 1, 2])
    assert rig.dispatcher.calls == 1


async def test_who_waits_for_one_answer_gets_the_error_of_the_run_or_of_its_own_deadline() -> None:
    rig = Rig(coalesce=True)
    rig.dispatcher.parts, rig.dispatcher.error = 0, EngineFailed("it burns")
    for asked in (rig.once(infer()), rig.once(infer())):
        with pytest.raises(EngineFailed, match="it burns"):
            await asked
    assert rig.dispatcher.calls == 1

    rig.dispatcher.go_on.clear()
    rig.dispatcher.parts = 1
    with pytest.raises(DeadlineExceeded):
        await rig.once(infer(), timeout=0.01)
