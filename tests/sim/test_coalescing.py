"""Identical requests of a whole fleet: one run, however many ask, whoever leaves, whatever dies."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest
from sim.simulation import MODEL, STEP, Fleet, counting, fleet, simulate

from shoal.clock import now
from shoal.config import ModelConfig, ResponseCacheConfig
from shoal.errors import DeadlineExceeded, Draining, EngineFailed, WorkerLost
from shoal.messages import Chunk, Generate
from shoal.model_registry import ModelSpec
from shoal.types import ModelKind, RequestId, Sampling, TextPrompt, Usage

SPEC = ModelSpec(name=MODEL, kind=ModelKind.GENERATE, settings=ModelConfig(coalesce=True))
_numbers = itertools.count()
CACHED = ModelSpec(
    name=MODEL, kind=ModelKind.GENERATE, settings=ModelConfig(coalesce=True, cache=ResponseCacheConfig(ttl=60.0))
)


def stream(
    f: Fleet, tokens: int, *, timeout: float = 60.0, temperature: float = 0.0, **fields: Any
) -> AsyncGenerator[Chunk, None]:
    sampling = Sampling(max_tokens=tokens, temperature=temperature, seed=fields.pop("seed", None))
    request = Generate(RequestId(f"same-{next(_numbers)}"), MODEL, TextPrompt("count"), sampling, **fields)
    return f.coordinator.plane.generate(request, timeout=timeout)


async def ask(f: Fleet, tokens: int, *, slow: float = 0.0, **options: Any) -> str:
    text = ""
    async with aclosing(stream(f, tokens, **options)) as chunks:
        async for chunk in chunks:
            text += chunk.text
            await asyncio.sleep(slow)
    return text


def steps(f: Fleet) -> int:
    return sum(runtime.steps for runtime in f.runtimes.values())


def test_a_thousand_identical_requests_run_once() -> None:
    async def scenario() -> None:
        async with fleet(2, specs=[SPEC]) as f:
            asked = [asyncio.create_task(ask(f, 20)) for _ in range(500)]
            await asyncio.sleep(10 * STEP)
            asked += [asyncio.create_task(ask(f, 20)) for _ in range(500)]  # late: they read from the beginning
            assert await asyncio.gather(*asked) == [counting(20)] * 1000
            assert steps(f) == 20
            f.assert_nothing_is_left()

    simulate(scenario())


def test_late_joiners_get_what_was_sent_and_then_each_part_as_it_comes() -> None:
    async def scenario() -> None:
        async with fleet(1, specs=[SPEC]) as f:
            first = asyncio.create_task(ask(f, 10))
            await asyncio.sleep(5.5 * STEP)
            came = [(chunk.text, now()) async for chunk in stream(f, 10)]
            assert [text for text, _ in came] == [f"{index} " for index in range(10)]
            assert came[4][1] == came[0][1]
            assert came[9][1] - came[5][1] == pytest.approx(4 * STEP)
            assert await first == counting(10)

    simulate(scenario())


def test_when_the_first_client_leaves_the_others_get_the_whole_answer() -> None:
    async def scenario() -> None:
        async with fleet(1, specs=[SPEC]) as f:
            leader = asyncio.create_task(ask(f, 50))
            await asyncio.sleep(5 * STEP)
            followers = [asyncio.create_task(ask(f, 50)) for _ in range(3)]
            await asyncio.sleep(5 * STEP)
            leader.cancel()
            assert await asyncio.gather(*followers) == [counting(50)] * 3
            assert steps(f) == 50
            f.assert_nothing_is_left()

    simulate(scenario())


def test_when_the_last_client_leaves_the_run_stops_within_a_step() -> None:
    async def scenario() -> None:
        async with fleet(1, specs=[SPEC]) as f:
            asked = [asyncio.create_task(ask(f, 1000)) for _ in range(3)]
            await asyncio.sleep(10.5 * STEP)
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            await asyncio.sleep(2 * STEP)
            assert steps(f) <= 11
            f.assert_nothing_is_left()
            assert await ask(f, 3) == counting(3)

    simulate(scenario())


def test_each_has_its_own_deadline() -> None:
    async def scenario() -> None:
        async with fleet(1, specs=[SPEC]) as f:
            short = asyncio.create_task(ask(f, 50, timeout=0.5))
            long = asyncio.create_task(ask(f, 50, timeout=0.9))  # no more than twice the first: it joins
            longest = asyncio.create_task(ask(f, 50, timeout=60))  # it does not
            began = now()
            with pytest.raises(DeadlineExceeded):
                await short
            assert now() - began == pytest.approx(0.5)
            with pytest.raises(DeadlineExceeded):
                await long
            assert now() - began == pytest.approx(0.9)
            assert await longest == counting(50)
            await asyncio.sleep(2 * STEP)
            assert 50 + 43 <= steps(f) <= 50 + 46
            f.assert_nothing_is_left()

    simulate(scenario())


def test_a_slow_reader_slows_nobody() -> None:
    async def scenario() -> None:
        async with fleet(1, specs=[SPEC]) as f:
            began = now()
            slow = asyncio.create_task(ask(f, 50, slow=1.0))
            await asyncio.sleep(0)
            assert await ask(f, 50) == counting(50)
            assert now() - began < 51 * STEP
            assert await slow == counting(50)

    simulate(scenario())


def test_tenants_never_share_a_run() -> None:
    async def scenario() -> None:
        async with fleet(1, specs=[CACHED]) as f:
            asked = [ask(f, 10, tenant=tenant) for tenant in ("a", "a", "b", "b", "")]
            assert await asyncio.gather(*asked) == [counting(10)] * 5
            assert steps(f) == 30
            assert await ask(f, 10, tenant="c") == counting(10)
            assert steps(f) == 40

    simulate(scenario())


def test_only_requests_with_one_right_answer_are_shared() -> None:
    async def scenario() -> None:
        async with fleet(1, specs=[CACHED]) as f:
            await asyncio.gather(*(ask(f, 5, temperature=1.0) for _ in range(3)))
            assert steps(f) == 15
            await asyncio.gather(*(ask(f, 5, temperature=1.0, seed=7) for _ in range(3)))
            await asyncio.gather(*(ask(f, 5, temperature=1.0, seed=8) for _ in range(3)))
            assert steps(f) == 25

    simulate(scenario())


def test_a_higher_priority_joins_too() -> None:
    async def scenario() -> None:
        async with fleet(1, specs=[SPEC]) as f:
            asked = [ask(f, 5), ask(f, 5, priority=9)]
            assert await asyncio.gather(*asked) == [counting(5)] * 2
            assert steps(f) == 5

    simulate(scenario())


def test_a_worker_that_dies_before_the_first_token_costs_nobody_the_answer() -> None:
    async def scenario() -> None:
        async with fleet(2, specs=[SPEC]) as f:
            asked = [asyncio.create_task(ask(f, 10)) for _ in range(20)]
            await asyncio.sleep(STEP / 2)
            (host,) = [host for host, runtime in f.runtimes.items() if runtime.running]
            f.crash(host)
            assert await asyncio.gather(*asked) == [counting(10)] * 20
            f.assert_nothing_is_left()

    simulate(scenario())


def test_a_worker_that_dies_under_a_shared_stream_costs_its_readers_nothing_if_there_is_another() -> None:
    async def scenario() -> None:
        async with fleet(2, specs=[CACHED]) as f:
            asked = [asyncio.create_task(ask(f, 10)) for _ in range(20)]
            await asyncio.sleep(5.5 * STEP)
            (host,) = [host for host, runtime in f.runtimes.items() if runtime.running]
            f.crash(host)
            asked += [asyncio.create_task(ask(f, 10)) for _ in range(20)]
            assert await asyncio.gather(*asked) == [counting(10)] * 40
            assert steps(f) <= 11
            f.assert_nothing_is_left()

    simulate(scenario())


def test_a_worker_that_dies_under_a_shared_stream_ends_each_request_once() -> None:
    async def scenario() -> None:
        async with fleet(1, specs=[CACHED]) as f:
            asked = [asyncio.create_task(ask(f, 10)) for _ in range(20)]
            await asyncio.sleep(5 * STEP)
            f.crash("w1")
            results = await asyncio.gather(*asked, return_exceptions=True)
            assert all(isinstance(result, WorkerLost) for result in results)
            assert len({id(result) for result in results}) == 20
            f.assert_nothing_is_left()

    simulate(scenario())


def test_what_ends_a_run_ends_every_request_once_and_is_not_kept() -> None:
    async def scenario() -> None:
        async with fleet(specs=[CACHED]) as f:
            await f.add_worker("w1", breaks_at=3)
            await f.until_ready(1)
            results = await asyncio.gather(*(ask(f, 10) for _ in range(20)), return_exceptions=True)
            assert all(isinstance(result, EngineFailed) for result in results)
            taken = steps(f)
            assert 4 <= taken < 20  # one run, with its attempts
            await asyncio.sleep(60)  # the worker is tried again
            assert await ask(f, 3) == counting(3)
            with pytest.raises(EngineFailed):
                await ask(f, 10)
            assert steps(f) > taken + 3
            f.assert_nothing_is_left()

    simulate(scenario())


def test_an_answer_that_was_given_is_replayed_as_the_same_stream() -> None:
    async def scenario() -> None:
        async with fleet(1, specs=[CACHED]) as f:
            first = [chunk async for chunk in stream(f, 10)]
            began = now()
            assert [chunk async for chunk in stream(f, 10)] == first
            assert (now(), first[-1].usage) == (began, Usage(1, 10))
            assert steps(f) == 10
            await asyncio.sleep(61)  # the time to live
            assert await ask(f, 10) == counting(10)
            assert steps(f) == 20

    simulate(scenario())


def test_a_client_that_leaves_alone_leaves_nothing_in_the_cache() -> None:
    async def scenario() -> None:
        async with fleet(1, specs=[CACHED]) as f:
            async with aclosing(stream(f, 10)) as chunks:
                await anext(chunks)
            await asyncio.sleep(2 * STEP)
            assert await ask(f, 10) == counting(10)
            assert 11 <= steps(f) <= 12

    simulate(scenario())


def test_what_is_forgotten_is_computed_anew_and_a_run_that_began_before_is_not_kept() -> None:
    async def scenario() -> None:
        async with fleet(1, specs=[CACHED]) as f:
            await ask(f, 10)
            running = asyncio.create_task(ask(f, 20))
            await asyncio.sleep(5 * STEP)
            await f.coordinator.responses.forget(CACHED.id)
            assert [await ask(f, 20), await running] == [counting(20)] * 2
            assert steps(f) == 50
            await ask(f, 10)
            assert steps(f) == 60

    simulate(scenario())


def test_a_coordinator_that_stops_tells_the_readers_that_it_could_not_wait_for() -> None:
    async def scenario() -> None:
        async with fleet(1, specs=[SPEC], drain_timeout=0.5) as f:
            asked = [asyncio.create_task(ask(f, 1000)) for _ in range(3)]
            await asyncio.sleep(5 * STEP)
            await f.coordinator.stop()
            results = await asyncio.gather(*asked, return_exceptions=True)
            assert all(isinstance(result, Draining) for result in results)

    simulate(scenario())


@pytest.mark.parametrize("spec", [SPEC, CACHED])
def test_clients_that_come_and_go_at_random_leave_nothing_behind(spec: ModelSpec) -> None:
    async def scenario() -> None:
        async with fleet(2, specs=[spec]) as f:
            tasks = []
            for index in range(300):
                tasks.append(asyncio.create_task(ask(f, 5 + index % 4, slow=STEP * (index % 3))))
                await asyncio.sleep(STEP / 7)
                if index % 5 == 0:
                    tasks[index // 2].cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            for index, result in enumerate(results):
                assert result == counting(5 + index % 4) or isinstance(result, asyncio.CancelledError)
            assert steps(f) < 1500
            await asyncio.sleep(2 * STEP)
            f.assert_nothing_is_left()

    simulate(scenario())
