"""The pool over processes in memory, on a clock that jumps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
import pytest_asyncio

from shoal.clock import now
from shoal.errors import (
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    ModelLoadFailed,
    ModelUnavailable,
    Overloaded,
    ShoalError,
    WorkerLost,
)
from shoal.messages import RunSteps, StepsLoaded
from shoal.preproc import pool as pool_module
from shoal.preproc.pool import REST, StepPool
from shoal.types import Tensors

TIMEOUT = 10.0
LONG = 1e6  # seconds


class FakeProcess:
    """Does what the request says: ``sleep`` seconds, then ``die``, ``refuse`` or answer with its number."""

    loaded = StepsLoaded((), ())

    def __init__(self, number: int) -> None:
        self.number = number
        self.busy = False
        self.stopped = False
        self._end: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def is_alive(self) -> bool:
        return not self._end.done()

    async def run(self, message: RunSteps) -> Tensors:
        assert not self.busy, "one request at a time"
        if not self.is_alive:
            raise WorkerLost("dead before")
        self.busy = True
        try:
            await asyncio.wait({self._end}, timeout=message.tensors["sleep"].item())
            if "die" in message.tensors:
                self.die("killed by SIGSEGV")
            if not self.is_alive:
                raise WorkerLost("the connection broke")
            if "refuse" in message.tensors:
                raise InvalidRequest("no fish")
            return {"by": np.array(self.number)}
        finally:
            self.busy = False

    async def wait(self) -> str:
        return await asyncio.shield(self._end)

    def die(self, reason: str) -> None:
        if self.is_alive:
            self._end.set_result(reason)

    def kill(self) -> None:
        self.die("killed by SIGKILL")

    async def stop(self) -> None:
        self.stopped = True
        self.kill()


class Fleet:
    """All processes that a pool has started."""

    def __init__(self) -> None:
        self.processes: list[FakeProcess] = []
        self.fails: ShoalError | None = None

    async def start(self) -> FakeProcess:
        await asyncio.sleep(0.1)
        if self.fails is not None:
            raise self.fails
        self.processes.append(FakeProcess(len(self.processes)))
        return self.processes[-1]

    def check_nothing_left(self) -> None:
        assert all(process.stopped and not process.is_alive for process in self.processes)
        assert len(asyncio.all_tasks()) == 1


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


@pytest_asyncio.fixture
async def pool(fleet: Fleet) -> AsyncIterator[StepPool]:
    """Two processes, both started."""
    pool = StepPool(fleet.start, size=2, timeout=TIMEOUT)
    await pool.start()
    await asyncio.sleep(0.2)
    yield pool
    await pool.close()
    fleet.check_nothing_left()


def request(sleep: float = 1.0, *acts: str) -> RunSteps:
    return RunSteps("preproc", {"sleep": np.array(sleep)} | {act: np.array(1) for act in acts})


async def ask(pool: StepPool, sleep: float = 1.0, *acts: str) -> int:
    return int((await pool.run(request(sleep, *acts)))["by"])


async def test_requests_run_on_all_processes_at_once_and_the_rest_waits_in_order(pool: StepPool) -> None:
    began = now()
    ends: list[int] = []

    async def one(number: int) -> None:
        await ask(pool)
        ends.append(number)

    await asyncio.gather(*(one(number) for number in range(5)))
    assert now() - began == pytest.approx(3)
    assert sorted(ends[:2] + ends[2:4]) == [0, 1, 2, 3]
    assert ends[4] == 4


async def test_what_the_steps_raise_is_the_requests_error_and_the_process_goes_on(pool: StepPool, fleet: Fleet) -> None:
    with pytest.raises(InvalidRequest, match="no fish"):
        await ask(pool, 1, "refuse")
    assert await ask(pool) in (0, 1)
    assert len(fleet.processes) == 2


async def test_a_request_whose_process_is_killed_runs_on_another(pool: StepPool, fleet: Fleet) -> None:
    asked = asyncio.ensure_future(ask(pool, 2))
    await asyncio.sleep(1)
    (victim,) = [process for process in fleet.processes if process.busy]
    victim.die("killed by SIGKILL")
    assert await asked == 1 - victim.number


async def test_a_request_that_kills_every_process_is_given_up_after_two(pool: StepPool, fleet: Fleet) -> None:
    others = [asyncio.ensure_future(ask(pool, 0.1)) for _ in range(4)]
    with pytest.raises(EngineFailed, match="2 processes died of the steps of preproc"):
        await ask(pool, 1, "die")
    await asyncio.gather(*others)
    assert await ask(pool) in (2, 3)  # both were started again
    assert all(process.stopped for process in fleet.processes[:2])


async def test_requests_that_kill_every_process_do_not_take_them_from_the_others(pool: StepPool) -> None:
    for _ in range(10):
        with pytest.raises(EngineFailed, match="2 processes died"):
            await ask(pool, 0.1, "die")
    began = now()
    await ask(pool, 0.1)
    assert now() - began < 1


async def test_a_process_that_dies_idle_is_started_again_and_costs_no_request(pool: StepPool, fleet: Fleet) -> None:
    for process in fleet.processes:
        process.die("killed by SIGKILL")
    began = now()
    assert await ask(pool, 0) in (2, 3)
    assert now() - began == pytest.approx(0.6)  # the pause after a first death, and the start


async def test_a_dead_process_is_not_taken_before_its_keeper_notices(pool: StepPool, fleet: Fleet) -> None:
    asked = asyncio.ensure_future(ask(pool, 1))
    fleet.processes[1].die("killed by SIGKILL")  # it would be the first to be taken
    assert await asked == 0


async def test_a_process_that_is_stuck_is_killed_and_others_are_not_hurt(pool: StepPool, fleet: Fleet) -> None:
    began = now()
    stuck = asyncio.ensure_future(ask(pool, LONG))
    others = [asyncio.ensure_future(ask(pool, 1)) for _ in range(3)]
    with pytest.raises(DeadlineExceeded, match="the steps of preproc did not end within 10 s"):
        await stuck
    assert now() - began == pytest.approx(TIMEOUT)
    await asyncio.gather(*others)
    await asyncio.sleep(1)
    assert len(fleet.processes) == 3


async def test_a_client_that_leaves_frees_its_place(pool: StepPool) -> None:
    running = [asyncio.ensure_future(ask(pool, 2)) for _ in range(2)]
    gone = asyncio.ensure_future(ask(pool, 2))
    last = asyncio.ensure_future(ask(pool, 2))
    await asyncio.sleep(1)
    assert pool.waiting == 2
    gone.cancel()
    await asyncio.sleep(0)
    assert pool.waiting == 1
    running[0].cancel()  # its process goes on to the end of the steps
    began = now()
    await last
    assert now() - began == pytest.approx(3)


async def test_the_queue_is_bounded(pool: StepPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "MAX_WAITING", 2)
    asked = [asyncio.ensure_future(ask(pool)) for _ in range(4)]
    await asyncio.sleep(0.5)
    with pytest.raises(Overloaded, match="2 requests wait") as caught:
        await ask(pool)
    assert caught.value.retry_after
    await asyncio.gather(*asked)


async def test_processes_that_die_again_and_again_rest_and_nobody_waits_for_them(pool: StepPool, fleet: Fleet) -> None:
    waiting = asyncio.ensure_future(ask(pool, LONG))
    while not waiting.done():
        for process in fleet.processes:
            process.die("killed by SIGSEGV")
        await asyncio.sleep(0.05)
    with pytest.raises((ModelUnavailable, EngineFailed)):
        await waiting
    while not pool._all_rest:
        for process in fleet.processes:
            process.die("killed by SIGSEGV")
        await asyncio.sleep(0.05)
    with pytest.raises(ModelUnavailable, match="died again and again, last: killed by SIGSEGV"):
        await ask(pool)
    await asyncio.sleep(REST + 1)
    assert await ask(pool) == len(fleet.processes) - 1


async def test_steps_that_cannot_be_made_are_an_error_of_the_model(fleet: Fleet) -> None:
    fleet.fails = ModelLoadFailed("no such step")
    pool = StepPool(fleet.start, size=2, timeout=TIMEOUT)
    with pytest.raises(ModelLoadFailed, match="no such step"):
        await pool.start()
    await pool.close()
    fleet.check_nothing_left()


async def test_a_start_that_fails_later_is_tried_again(pool: StepPool, fleet: Fleet) -> None:
    fleet.fails = ModelLoadFailed("no memory")
    for process in fleet.processes:
        process.die("killed by SIGKILL")
    asked = asyncio.ensure_future(ask(pool))
    await asyncio.sleep(1)
    fleet.fails = None
    assert await asked in (2, 3)


async def test_closing_ends_every_request_and_every_process(fleet: Fleet) -> None:
    pool = StepPool(fleet.start, size=1, timeout=TIMEOUT)
    await pool.start()
    asked = [asyncio.ensure_future(ask(pool)) for _ in range(2)]
    await asyncio.sleep(0.5)
    await pool.close()
    for request in asked:
        with pytest.raises(ModelUnavailable, match="being unloaded"):
            await request
    with pytest.raises(ModelUnavailable, match="being unloaded"):
        await ask(pool)
    fleet.check_nothing_left()
