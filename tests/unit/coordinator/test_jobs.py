"""Jobs begin in their turn, end exactly once, and stay within their bounds, on a clock that jumps."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from shoal.clock import ManualClockLoop, now
from shoal.config import JobsConfig
from shoal.coordinator.admission import Admission
from shoal.coordinator.job import Job, JobState, Order, Result
from shoal.coordinator.jobs import MAX_TIME, Jobs, Tell, Work
from shoal.errors import Conflict, DeadlineExceeded, Draining, EngineFailed, NotFound, Overloaded, ShoalError
from shoal.types import RequestId

DONE = Result(200, b'{"ok":true}')


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=ManualClockLoop) as runner:
        runner.run(test())


def made(*, max_running: int = 2, **config: Any) -> Jobs:
    return Jobs(JobsConfig(**config), admission=Admission(10), max_running=max_running, wall_clock=lambda: 1e9 + now())


def order(body: bytes = b"{}", **fields: Any) -> Order:
    return Order("/v1/completions", body, **fields)


def takes(seconds: float, outcome: Result | Exception = DONE) -> Work:
    async def work(job: Job, tell: Tell) -> Result:
        tell(b"begun")
        await asyncio.sleep(seconds)
        tell(b"done")
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return work


def states(job: Job) -> list[str]:
    return [json.loads(event.data)["state"] for event in job.events.log.after(0) if event.name == "state"]


def told(job: Job) -> list[bytes]:
    return [event.data for event in job.events.log.after(0) if not event.name]


def test_a_job_is_queued_runs_and_succeeds() -> None:
    async def test() -> None:
        jobs = made(max_running=1)
        first, second = jobs.submit(order(), takes(10)), jobs.submit(order(), takes(10))
        assert (first.state, second.state) == (JobState.RUNNING, JobState.QUEUED)
        await asyncio.sleep(15)
        assert (first.state, second.state) == (JobState.SUCCEEDED, JobState.RUNNING)
        await asyncio.sleep(10)
        assert second.state is JobState.SUCCEEDED
        assert second.outcome == DONE
        assert (second.created, second.started, second.finished) == (1e9, 1e9 + 10, 1e9 + 20)
        assert states(second) == ["queued", "running", "succeeded"]
        assert told(second) == [b"begun", b"done"]
        assert jobs.get(second.id) is second

    run(test)


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Result(400, b"{}"), None),
        (EngineFailed("broke"), "engine_failed"),
        (RuntimeError("a bug"), "internal_error"),
    ],
)
def test_what_goes_wrong_is_a_failure_with_its_reason(outcome: Result | Exception, code: str | None) -> None:
    async def test() -> None:
        job = made().submit(order(), takes(1, outcome))
        await asyncio.sleep(2)
        assert job.state is JobState.FAILED
        if code is None:
            assert job.outcome == outcome
        else:
            assert isinstance(job.outcome, ShoalError)
            assert job.outcome.code == code

    run(test)


def test_a_cancelled_job_ends_at_once_and_its_work_too() -> None:
    async def test() -> None:
        ended: list[bool] = []

        async def stubborn(job: Job, tell: Tell) -> Result:
            try:
                await asyncio.sleep(1e6)
            finally:
                tell(b"too late")
                ended.append(True)
            return DONE

        jobs = made(max_running=1)
        running, waiting, other = (jobs.submit(order(), work) for work in (stubborn, takes(1), takes(1)))
        await asyncio.sleep(1)
        assert jobs.remove(waiting.id).state is JobState.CANCELLED
        assert jobs.remove(running.id).state is JobState.CANCELLED
        await asyncio.sleep(0.1)
        assert ended == [True]
        assert (states(running), told(running)) == (["queued", "running", "cancelled"], [])
        assert states(waiting) == ["queued", "cancelled"]
        await asyncio.sleep(2)
        assert other.state is JobState.SUCCEEDED, "the place is free again"
        assert running.outcome is None

    run(test)


def test_removing_a_finished_job_forgets_it() -> None:
    async def test() -> None:
        jobs = made()
        job = jobs.submit(order(), takes(1))
        await asyncio.sleep(2)
        assert jobs.remove(job.id).state is JobState.SUCCEEDED
        for ask in (jobs.get, jobs.remove):
            with pytest.raises(NotFound):
                ask(job.id)

    run(test)


def test_a_finished_job_goes_by_itself_when_its_time_is_over() -> None:
    async def test() -> None:
        jobs = made(ttl=100)
        first = jobs.submit(order(), takes(10))
        second = jobs.submit(order(), takes(20))
        await asyncio.sleep(109)
        assert jobs.get(first.id) is first
        await asyncio.sleep(2)
        assert len(jobs._store) == 1, "nobody asked"
        await asyncio.sleep(10)
        assert len(jobs._store) == 0
        with pytest.raises(NotFound, match="100 s"):
            jobs.get(second.id)

    run(test)


@pytest.mark.parametrize("max_running", [1, 2])
def test_a_deadline_counts_the_waiting_too(max_running: int) -> None:
    async def test() -> None:
        jobs = made(max_running=max_running)
        jobs.submit(order(), takes(100))
        job = jobs.submit(order(deadline=now() + 30), takes(100))
        await asyncio.sleep(31)
        assert job.state is JobState.FAILED
        assert isinstance(job.outcome, DeadlineExceeded)

    run(test)


def test_no_job_lasts_for_ever() -> None:
    async def test() -> None:
        job = made().submit(order(), takes(1e9))
        await asyncio.sleep(MAX_TIME + 1)
        assert job.state is JobState.FAILED

    run(test)


def test_the_urgent_begin_first() -> None:
    async def test() -> None:
        jobs = made(max_running=1)
        jobs.submit(order(), takes(10))
        calm, urgent = jobs.submit(order(), takes(10)), jobs.submit(order(priority=5), takes(10))
        await asyncio.sleep(11)
        assert (calm.state, urgent.state) == (JobState.QUEUED, JobState.RUNNING)

    run(test)


def test_a_key_gets_the_same_job_and_only_for_the_same_request() -> None:
    async def test() -> None:
        jobs = made()
        job = jobs.submit(order(b"[1]", key="k"), takes(10))
        assert jobs.submit(order(b"[1]", key="k"), takes(10)) is job
        with pytest.raises(Conflict) as caught:
            jobs.submit(order(b"[2]", key="k"), takes(10))
        assert caught.value.param == "idempotency-key"
        await asyncio.sleep(11)
        assert jobs.submit(order(b"[1]", key="k"), takes(10)) is job
        assert jobs.submit(order(b"[1]"), takes(10)) is not job

    run(test)


def test_beyond_the_bound_jobs_are_refused() -> None:
    async def test() -> None:
        jobs = made(max_jobs=3)
        for _ in range(3):
            jobs.submit(order(), takes(10))
        with pytest.raises(Overloaded):
            jobs.submit(order(), takes(10))
        await asyncio.sleep(11)
        jobs.submit(order(), takes(10))

    run(test)


def test_a_long_log_loses_its_oldest_events_before_anybody_fails() -> None:
    async def test() -> None:
        async def talks(job: Job, tell: Tell) -> Result:
            for _ in range(100):
                tell(b"x" * 1000)
            return DONE

        jobs = made(max_bytes=20_000)
        job = jobs.submit(order(), talks)
        await asyncio.sleep(1)
        assert (job.state, job.outcome) == (JobState.SUCCEEDED, DONE)
        assert job.events.log.last == 103
        assert len(job.events.log.after(100)) == 3
        assert jobs._store.bytes_used <= 20_000

    run(test)


def test_a_result_that_has_no_room_is_an_error_that_has() -> None:
    async def test() -> None:
        jobs = made(max_bytes=5000)
        job = jobs.submit(order(), takes(1, Result(200, b"x" * 6000)))
        await asyncio.sleep(2)
        assert job.state is JobState.FAILED
        assert isinstance(job.outcome, Overloaded)
        assert jobs._store.bytes_used <= 5000

    run(test)


def test_closing_ends_every_job_and_leaves_nothing_behind() -> None:
    async def test() -> None:
        admission = Admission(10)
        jobs = Jobs(JobsConfig(), admission=admission, max_running=1)
        given = [jobs.submit(order(), takes(10)) for _ in range(3)]
        await admission.drain(1)
        with pytest.raises(Draining):
            jobs.submit(order(), takes(10))
        await asyncio.sleep(15)
        await jobs.close()
        assert [job.state for job in given] == [JobState.SUCCEEDED, JobState.CANCELLED, JobState.CANCELLED]
        assert all(job.events.log.closed for job in given)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(test)


def test_of_many_jobs_each_ends_once_whatever_happens_to_it() -> None:
    async def test() -> None:
        jobs = made(max_running=7, max_jobs=500)
        outcomes: list[Result | Exception] = [DONE, Result(500, b"{}"), EngineFailed("broke"), RuntimeError("a bug")]
        given = [
            jobs.submit(order(priority=at % 3, deadline=now() + 10 * at), takes(at % 11, outcomes[at % 4]))
            for at in range(1, 300)
        ]
        timers = [pending.timer for pending in jobs._pending.values()]
        for at in range(0, 299, 5):
            await asyncio.sleep(0.7)
            jobs.remove(given[at].id)
        await asyncio.sleep(1000)
        for job in given:
            assert job.final
            assert len(states(job)) - len(set(states(job))) == 0
            assert [state for state in states(job) if state in ("succeeded", "failed", "cancelled")] == [job.state]
        assert {job.state for job in given} == {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}
        assert not jobs._pending
        assert all(timer.cancelled() or timer.when() < now() for timer in timers)
        assert len(jobs._tasks) == 0

    run(test)


def test_ids_cannot_be_guessed() -> None:
    async def test() -> None:
        jobs = made()
        ids = {jobs.submit(order(), takes(1)).id for _ in range(100)}
        assert len(ids) == 100
        assert all(len(job_id) == len("job-") + 32 for job_id in ids)
        with pytest.raises(NotFound):
            jobs.get(RequestId("job-0"))

    run(test)
