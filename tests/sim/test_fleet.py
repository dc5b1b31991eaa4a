"""What must hold in a fleet whatever fails: every request ends, exactly once, and nothing is left behind."""

from __future__ import annotations

import asyncio
import random

import pytest
from sim.simulation import MODEL, Fleet, counting, fleet, simulate

from shoal.clock import now
from shoal.errors import DeadlineExceeded, Draining, ModelNotFound, ModelUnavailable, Overloaded, ShoalError
from shoal.types import WorkerState


def test_requests_are_answered_by_workers_that_registered_themselves() -> None:
    async def scenario() -> None:
        async with fleet(2) as f:
            assert await asyncio.gather(*(f.ask(7) for _ in range(20))) == [counting(7)] * 20
            assert all(runtime.steps == 70 for runtime in f.runtimes.values())  # the load was balanced
            f.assert_nothing_is_left()

    simulate(scenario())


@pytest.mark.parametrize("worker_starts_first", [True, False])
def test_a_coordinator_finds_a_worker_that_it_is_told_of_in_either_order_of_start(worker_starts_first: bool) -> None:
    async def scenario() -> None:
        async with fleet(workers=("w1:9001",)) as f:
            if not worker_starts_first:
                await asyncio.sleep(20)  # it calls again and again
            await f.add_worker("w1", invited=True)
            await f.until_ready(1)
            assert await f.ask(3) == counting(3)

    simulate(scenario())


def test_a_worker_takes_requests_only_when_its_model_is_loaded() -> None:
    async def scenario() -> None:
        async with fleet() as f:
            await f.add_worker("w1", loads_in=5.0)
            await asyncio.sleep(1)
            with pytest.raises(ModelUnavailable, match="loading"):
                await f.ask()
            await f.until_ready(1)
            assert now() >= 5.0
            assert await f.ask() == counting(5)

    simulate(scenario())


def test_a_request_goes_to_another_worker_as_long_as_nothing_was_sent() -> None:
    async def scenario() -> None:
        async with fleet() as f:
            await f.add_worker("bad", breaks_at=0)
            await f.add_worker("good")
            await f.until_ready(2)
            assert await asyncio.gather(*(f.ask() for _ in range(10))) == [counting(5)] * 10
            f.assert_nothing_is_left()

    simulate(scenario())


def test_an_answer_that_no_worker_can_go_on_with_fails_with_a_reason() -> None:
    async def scenario() -> None:
        async with fleet() as f:
            await f.add_worker("w1", breaks_at=3)
            await f.until_ready(1)
            with pytest.raises(ShoalError, match="the engine is broken"):
                await f.ask()
            f.assert_nothing_is_left()

    simulate(scenario())


def test_a_crashed_worker_is_out_of_rotation_at_once_and_its_answers_go_on_elsewhere() -> None:
    async def scenario() -> None:
        async with fleet(2) as f:
            asked = [asyncio.create_task(f.ask(100)) for _ in range(20)]
            await asyncio.sleep(1.0)
            crashed_at = now()
            f.crash("w1")
            await asyncio.sleep(0.2)
            assert [member.state for member in f.coordinator.fleet.members()] == [WorkerState.READY]
            assert await asyncio.gather(*asked) == [counting(100)] * 20
            assert now() - crashed_at < 1.2  # as long as without the crash
            assert [member.state for member in f.coordinator.fleet.members()] == [WorkerState.READY]
            assert await f.ask() == counting(5)
            f.assert_nothing_is_left()

    simulate(scenario())


def test_requests_that_wait_for_their_first_token_survive_a_crash() -> None:
    async def scenario() -> None:
        async with fleet(2) as f:
            asked = [asyncio.create_task(f.ask(5)) for _ in range(20)]
            await asyncio.sleep(0.01)  # they are on their way, none has a token
            f.crash("w1")
            assert await asyncio.gather(*asked) == [counting(5)] * 20

    simulate(scenario())


def test_a_silent_partition_is_noticed_and_answers_go_on_elsewhere() -> None:
    async def scenario() -> None:
        async with fleet(2) as f:
            asked = [asyncio.create_task(f.ask(200)) for _ in range(4)]
            await asyncio.sleep(1.0)
            f.network.faults("w1").partition()  # nobody is told
            assert await asyncio.gather(*asked) == [counting(200)] * 4
            assert now() < 4.0 + 1.0 + 0.5  # as long as without the silence, and less than a second more
            f.network.faults("w1").heal()
            await f.until_ready(2)  # it comes back by itself
            f.assert_nothing_is_left()

    simulate(scenario())


def test_cancelling_a_request_stops_its_computing_within_a_step() -> None:
    async def scenario() -> None:
        async with fleet(1) as f:
            asked = asyncio.create_task(f.ask(1000))
            await asyncio.sleep(0.5)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
            await asyncio.sleep(0.05)
            f.assert_nothing_is_left()
            assert f.runtimes["w1"].steps <= 27

    simulate(scenario())


def test_a_deadline_ends_the_request_and_its_computing() -> None:
    async def scenario() -> None:
        async with fleet(1) as f:
            with pytest.raises(DeadlineExceeded):
                await f.ask(1000, timeout=0.5)
            await asyncio.sleep(0.05)
            f.assert_nothing_is_left()

    simulate(scenario())


def test_beyond_the_bounds_the_answer_is_overloaded_and_what_was_let_in_finishes() -> None:
    async def scenario() -> None:
        async with fleet(max_in_flight=30) as f:
            await f.add_worker("w1", capacity=20)
            await f.until_ready(1)
            results = await asyncio.gather(*(f.ask() for _ in range(100)), return_exceptions=True)
            done = [result for result in results if result == counting(5)]
            refused = [result for result in results if isinstance(result, Overloaded)]
            assert len(done) == 28  # the last places are kept for other tenants
            assert len(done) + len(refused) == 100
            assert all(error.retry_after for error in refused)
            f.assert_nothing_is_left()
            await f.until_ready(1)  # it has told that it is not overloaded any more
            assert await f.ask() == counting(5)

    simulate(scenario())


def test_a_draining_worker_finishes_what_it_has_and_takes_nothing_new() -> None:
    async def scenario() -> None:
        async with fleet(2) as f:
            asked = [asyncio.create_task(f.ask(50)) for _ in range(10)]
            await asyncio.sleep(0.1)
            steps = f.runtimes["w1"].steps
            stopping = asyncio.create_task(f.workers["w1"].stop(timeout=30))
            await asyncio.sleep(0.1)
            assert await asyncio.gather(*(f.ask(5) for _ in range(5))) == [counting(5)] * 5
            assert await asyncio.gather(*asked) == [counting(50)] * 10
            await stopping
            assert f.runtimes["w1"].steps == 5 * 50 > steps
            assert len(f.coordinator.fleet.members()) == 1

    simulate(scenario())


def test_a_stopping_coordinator_lets_requests_finish_and_refuses_new_ones() -> None:
    async def scenario() -> None:
        async with fleet(1) as f:
            asked = asyncio.create_task(f.ask(50))
            await asyncio.sleep(0.1)
            stopping = asyncio.create_task(f.coordinator.stop())
            await asyncio.sleep(0)
            with pytest.raises(Draining):
                await f.ask()
            assert await asked == counting(50)
            await stopping

    simulate(scenario())


def test_no_such_model_and_no_worker_are_different_errors() -> None:
    async def scenario() -> None:
        async with fleet() as f:
            with pytest.raises(ModelNotFound):
                await f.ask()
            worker = await f.add_worker("w1")
            await f.until_ready(1)
            await worker.stop()
            with pytest.raises(ModelUnavailable, match=MODEL):
                await f.ask()

    simulate(scenario())


@pytest.mark.parametrize("seed", range(10))
def test_under_random_faults_every_request_ends_exactly_once(seed: int) -> None:
    chance = random.Random(seed)

    async def trouble(f: Fleet) -> None:
        while True:
            await asyncio.sleep(chance.uniform(0.2, 2))
            faults = f.network.faults(f"w{chance.randint(1, 5)}")
            chance.choice([faults.cut, faults.stall, faults.partition, faults.heal, faults.heal])()

    async def scenario() -> None:
        async with fleet(5) as f:
            troubling = asyncio.create_task(trouble(f))
            asked = []
            for _ in range(300):
                asked.append(asyncio.create_task(f.ask(chance.randint(1, 40), timeout=20)))
                await asyncio.sleep(chance.uniform(0, 0.05))
            done, hung = await asyncio.wait(asked, timeout=30)
            troubling.cancel()
            await asyncio.gather(troubling, return_exceptions=True)
            assert not hung
            texts = [task.result() for task in done if task.exception() is None]
            assert all(text == counting(text.count(" ")) for text in texts)
            assert len(texts) > 100
            assert all(isinstance(task.exception(), ShoalError) for task in done if task.exception())
            for host in f.workers:
                f.network.faults(host).heal()
            await f.until_ready(5)
            await asyncio.sleep(25)  # what a partition held back ends with its deadline
            f.assert_nothing_is_left()

    simulate(scenario())
