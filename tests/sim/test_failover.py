"""An answer goes on whatever becomes of its worker: no token is lost, repeated or changed."""

from __future__ import annotations

import asyncio
import gc
import random
import weakref
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from sim.simulation import Fleet, NumbersRuntime, PartsRuntime, ShardRuntime, counting, fleet, simulate

from shoal.clock import now
from shoal.coordinator.attempts import PATIENCE
from shoal.errors import DeadlineExceeded, EngineFailed, ModelUnavailable, ShoalError, WorkerLost
from shoal.messages import Chunk, Generate
from shoal.types import ModelKind


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("blow", ["crash", "silence"])
def test_two_hundred_streams_survive_the_loss_of_one_worker_in_four(seed: int, blow: str) -> None:
    chance = random.Random(seed)

    async def scenario() -> None:
        async with fleet(4) as f:
            lengths = [chance.randint(20, 200) for _ in range(200)]
            asked = [asyncio.create_task(f.ask(length)) for length in lengths]
            await asyncio.sleep(chance.uniform(0.0, 3.0))
            victim = chance.choice(list(f.workers))
            if blow == "crash":
                f.crash(victim)
            else:
                f.network.faults(victim).stall()
            assert await asyncio.gather(*asked) == [counting(length) for length in lengths]
            assert now() < 200 * 0.02 + 1.0  # the longest answer, and less than a second more
            f.network.faults(victim).heal()
            await asyncio.sleep(1)
            f.assert_nothing_is_left()

    simulate(scenario())


def test_an_answer_waits_for_its_only_worker_to_come_back() -> None:
    async def scenario() -> None:
        async with fleet(1) as f:
            asked = [asyncio.create_task(f.ask(100)) for _ in range(5)]
            await asyncio.sleep(1.0)
            f.crash("w1")
            await asyncio.sleep(5.0)
            await f.add_worker("w2")
            assert await asyncio.gather(*asked) == [counting(100)] * 5
            assert now() < 8

    simulate(scenario())


class SlowToTakeUp(NumbersRuntime):
    """Goes on with an answer only after longer than a request has patience, as one that replays token by token."""

    async def generate(self, request: Generate, *, deadline: float | None) -> AsyncGenerator[Chunk, None]:
        if request.output:
            await asyncio.sleep(PATIENCE + 10)
        async with aclosing(super().generate(request, deadline=deadline)) as chunks:
            async for chunk in chunks:
                yield chunk


def test_an_answer_that_loses_a_slow_worker_too_has_its_patience_anew() -> None:
    async def scenario() -> None:
        async with fleet(1) as f:
            answer = asyncio.create_task(f.ask(50, timeout=300))
            await asyncio.sleep(0.3)
            await f.add_worker("slow", runtime=SlowToTakeUp())
            await f.until_ready(2)
            f.crash("w1")
            await asyncio.sleep(PATIENCE + 5)
            f.crash("slow")
            await asyncio.sleep(5)
            await f.add_worker("w2")
            assert await answer == counting(50)
            f.assert_nothing_is_left()

    simulate(scenario())


def test_an_answer_does_not_wait_for_ever() -> None:
    async def scenario() -> None:
        async with fleet(1) as f:
            asked = asyncio.create_task(f.ask(100, timeout=1000))
            await asyncio.sleep(1.0)
            f.crash("w1")
            with pytest.raises(WorkerLost):
                await asked
            assert 30 < now() < 35

    simulate(scenario())


def test_a_new_request_does_not_wait_for_a_worker_that_is_not_there() -> None:
    async def scenario() -> None:
        async with fleet(1) as f:
            f.crash("w1")
            await asyncio.sleep(0.1)
            began = now()
            with pytest.raises(ModelUnavailable):
                await f.ask()
            assert now() == began

    simulate(scenario())


def test_a_deadline_ends_the_waiting_too() -> None:
    async def scenario() -> None:
        async with fleet(1) as f:
            asked = asyncio.create_task(f.ask(100, timeout=3.0))
            await asyncio.sleep(1.0)
            f.crash("w1")
            with pytest.raises(WorkerLost):
                await asked
            assert now() < 3.2

    simulate(scenario())


def test_workers_that_fail_one_after_the_other_each_add_what_they_can() -> None:
    async def scenario() -> None:
        async with fleet() as f:
            for number, breaks_at in enumerate((3, 7, 12, None)):
                await f.add_worker(f"w{number}", breaks_at=breaks_at)
            await f.until_ready(4)
            assert await f.ask(20) == counting(20)
            f.assert_nothing_is_left()

    simulate(scenario())


async def add_series(f: Fleet, *runtimes: PartsRuntime) -> None:
    for number, runtime in enumerate(runtimes):
        await f.add_worker(f"s{number}", runtime=runtime)
    await f.until_ready(len(runtimes))


def busy(f: Fleet) -> str:
    return next(host for host, runtime in f.runtimes.items() if runtime.running)


@pytest.mark.parametrize("blows", [1, 3])
def test_a_tensor_answer_in_parts_is_computed_anew_and_goes_on_behind_them(blows: int) -> None:
    async def scenario() -> None:
        async with fleet() as f:
            await add_series(f, *(PartsRuntime() for _ in range(4)))
            answer = asyncio.create_task(f.series(50))
            for _ in range(blows):
                await asyncio.sleep(0.7)
                f.crash(busy(f))
            assert await answer == list(range(50))
            await asyncio.sleep(1)
            assert all(member.sent == 0 for member in f.coordinator.fleet.members())

    simulate(scenario())


def test_a_tensor_answer_that_comes_out_otherwise_ends_with_a_reason() -> None:
    async def scenario() -> None:
        async with fleet() as f:
            await add_series(f, PartsRuntime(), PartsRuntime(factor=3), PartsRuntime(factor=5))
            answer = asyncio.create_task(f.series(50))
            await asyncio.sleep(0.5)
            f.crash(busy(f))
            with pytest.raises(WorkerLost, match="computed again it begins otherwise"):
                await answer
            await asyncio.sleep(1)
            assert all(member.sent == 0 for member in f.coordinator.fleet.members())

    simulate(scenario())


def test_a_tensor_answer_that_every_engine_fails_at_ends_after_three() -> None:
    async def scenario() -> None:
        async with fleet() as f:
            await add_series(f, *(PartsRuntime(breaks_at=4) for _ in range(5)))
            with pytest.raises(EngineFailed, match="the engine is broken"):
                await f.series(20)
            assert sum(runtime.steps for runtime in f.runtimes.values()) == 3 * 5
            f.assert_nothing_is_left()

    simulate(scenario())


@pytest.mark.parametrize("breaks_at", [0, 4])
def test_an_engine_that_fails_is_not_asked_again_while_others_are_only_full(breaks_at: int) -> None:
    async def scenario() -> None:
        async with fleet() as f:
            await f.add_worker("broken", breaks_at=breaks_at, capacity=1)
            await f.add_worker("sound", capacity=1)
            await f.until_ready(2)
            asked = [asyncio.create_task(f.ask(50)) for _ in range(2)]
            assert await asyncio.gather(*asked) == [counting(50)] * 2
            assert f.runtimes["broken"].steps == breaks_at + 1
            f.assert_nothing_is_left()

    simulate(scenario())


def test_a_request_that_a_full_worker_refuses_waits_and_takes_nobody_along() -> None:
    """The worker is full of what another coordinator sent, and this one does not know it yet."""

    async def scenario() -> None:
        async with fleet(1) as f:
            worker = f.workers["w1"]
            worker._in_flight += 64
            asked = [asyncio.create_task(f.ask(5)) for _ in range(100)]
            await asyncio.sleep(0.5)
            worker._in_flight -= 64
            assert await asyncio.gather(*asked) == [counting(5)] * 100
            f.assert_nothing_is_left()

    simulate(scenario())


def test_an_engine_that_always_fails_at_the_same_token_ends_the_answer_with_its_reason() -> None:
    async def scenario() -> None:
        async with fleet() as f:
            for number in range(5):
                await f.add_worker(f"w{number}", breaks_at=4)
            await f.until_ready(5)
            with pytest.raises(EngineFailed, match="the engine is broken"):
                await f.ask(20)
            assert sum(runtime.steps for runtime in f.runtimes.values()) <= 4 + 4
            f.assert_nothing_is_left()

    simulate(scenario())


def test_a_worker_whose_drain_ends_too_soon_hands_its_answers_on() -> None:
    async def scenario() -> None:
        async with fleet(2) as f:
            asked = [asyncio.create_task(f.ask(300)) for _ in range(10)]
            await asyncio.sleep(1.0)
            await f.workers["w1"].stop(timeout=0.5)
            assert await asyncio.gather(*asked) == [counting(300)] * 10
            f.assert_nothing_is_left()

    simulate(scenario())


def test_a_rolling_restart_of_every_worker_loses_nothing() -> None:
    async def restart(f: Fleet) -> None:
        for number in range(1, 4):
            await f.add_worker(f"new{number}")
            await f.until_ready(4)
            await f.workers[f"w{number}"].stop(timeout=0.2)

    async def scenario() -> None:
        async with fleet(3) as f:
            restarting = asyncio.create_task(restart(f))
            lengths = [20 + 3 * number for number in range(60)]
            asked = []
            for length in lengths:
                asked.append(asyncio.create_task(f.ask(length)))
                await asyncio.sleep(0.02)
            assert await asyncio.gather(*asked) == [counting(length) for length in lengths]
            await restarting

    simulate(scenario())


def test_a_client_that_leaves_while_its_answer_waits_for_a_worker_leaves_nothing() -> None:
    async def scenario() -> None:
        async with fleet(1) as f:
            asked = asyncio.create_task(f.ask(100))
            await asyncio.sleep(0.5)
            f.crash("w1")
            await asyncio.sleep(1)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
            await f.add_worker("w2")
            await f.until_ready(1)
            await asyncio.sleep(1)
            assert f.runtimes["w2"].steps == 0
            assert f.coordinator.admission.in_flight == 0

    simulate(scenario())


def test_a_request_that_an_engine_fails_at_is_not_sent_to_the_same_worker_again() -> None:
    async def scenario() -> None:
        async with fleet() as f:
            await f.add_worker("w1", breaks_at=0)
            await f.until_ready(1)
            with pytest.raises(EngineFailed):
                await f.ask()
            assert f.runtimes["w1"].steps == 1  # it would fail again, and take the worker from the others

    simulate(scenario())


def test_impatient_clients_do_not_take_a_worker_from_the_others() -> None:
    async def scenario() -> None:
        async with fleet(1) as f:
            for _ in range(10):
                with pytest.raises(DeadlineExceeded):
                    await f.ask(5, timeout=0.001)
            assert await f.ask(5) == counting(5)

    simulate(scenario())


class Held:
    """Something that a request's frames hold, as they do its tensors."""


@pytest.mark.parametrize("kind", [ModelKind.GENERATE, ModelKind.TENSOR])
def test_a_request_that_failed_is_freed_at_once(kind: ModelKind) -> None:
    """The collector comes rarely, and what a request holds may be large."""

    async def ask(f: Fleet, seen: list[weakref.ref[Held]]) -> None:
        held = Held()
        seen.append(weakref.ref(held))
        if kind is ModelKind.GENERATE:
            await f.ask()
        else:
            await f.look_up([3])

    async def scenario() -> None:
        seen: list[weakref.ref[Held]] = []
        async with fleet(0) as f:
            for host in ("w1", "w2"):
                runtime = NumbersRuntime(breaks_at=0) if kind is ModelKind.GENERATE else ShardRuntime(None, fails=True)
                await f.add_worker(host, runtime=runtime)
            await f.until_ready(2)
            gc.disable()
            try:
                with pytest.raises(ShoalError):
                    await ask(f, seen)
                await asyncio.sleep(1)
                assert seen[0]() is None
            finally:
                gc.enable()

    simulate(scenario())
