"""Runs jobs: some at a time, each to exactly one final state, and keeps what came of them for a while."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from shoal.aio import Tasks
from shoal.clock import now
from shoal.config import JobsConfig
from shoal.coordinator.admission import RETRY_AFTER, Admission
from shoal.coordinator.job import Job, JobState, Order, Result
from shoal.coordinator.job_queue import JobQueue
from shoal.coordinator.job_store import JobStore
from shoal.errors import DeadlineExceeded, Draining, Overloaded, ShoalError
from shoal.types import RequestId

logger = logging.getLogger(__name__)

MAX_TIME = 24 * 3600.0  # seconds for a job whose client sets no deadline, waiting included

Tell = Callable[[bytes], None]
#: Asks a surface. What it streams goes to ``tell``, an event at a time; its whole answer is returned.
Work = Callable[[Job, Tell], Awaitable[Result]]


@dataclass(slots=True, eq=False)
class _Pending:
    job: Job
    work: Work
    timer: asyncio.TimerHandle  # its deadline
    task: asyncio.Task[None] | None = None  # None: it waits


class Jobs:
    """``max_running`` at a time: the rest of the places that admission has is left to direct requests."""

    def __init__(
        self,
        config: JobsConfig,
        *,
        admission: Admission,
        max_running: int,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = JobStore(config)
        self._admission = admission
        self._max_running = max_running
        self._wall_clock = wall_clock
        self._tasks = Tasks()
        self._queue = JobQueue[_Pending]()
        self._pending: dict[RequestId, _Pending] = {}  # every job without a final state
        self._expiry: asyncio.TimerHandle | None = None

    def submit(self, order: Order, work: Work) -> Job:
        """A new job, or the one that this key of idempotency has already.

        Raises :class:`Overloaded`, :class:`Draining`, and :class:`~shoal.errors.Conflict` for a key that another
        request has.
        """
        if order.key and (known := self._store.with_key(order.key, order.digest, now())):
            return known
        if self._admission.closed:
            raise Draining(retry_after=RETRY_AFTER)
        job = Job(RequestId(f"job-{secrets.token_hex(16)}"), order, created=self._wall_clock())
        job.tell_state()
        self._store.add(job, now())
        deadline = now() + MAX_TIME if order.deadline is None else order.deadline
        timer = asyncio.get_running_loop().call_at(deadline, self._late, job)
        self._pending[job.id] = pending = _Pending(job, work, timer)
        self._queue.put(job.id, order.priority, pending)
        self._begin()
        return job

    def get(self, job_id: str) -> Job:
        """Raises :class:`NotFound`."""
        return self._store.get(job_id, now())

    def remove(self, job_id: str) -> Job:
        """Cancel a job that is not finished, forget one that is. Raises :class:`NotFound`."""
        job = self.get(job_id)
        if job.final:
            self._store.forget(job)
        else:
            self._end(job, JobState.CANCELLED)
        return job

    async def close(self) -> None:
        """Cancel what is not finished; returns when nothing runs any more."""
        for pending in list(self._pending.values()):
            self._end(pending.job, JobState.CANCELLED)
        await self._tasks.close()
        if self._expiry is not None:
            self._expiry.cancel()

    # -- a job's way

    def _begin(self) -> None:
        while len(self._tasks) < self._max_running and (pending := self._queue.take()):
            pending.job.started = self._wall_clock()
            pending.job.enter(JobState.RUNNING)
            self._count(pending.job)
            pending.task = self._tasks.start(self._run(pending), name=f"job {pending.job.id}")
            pending.task.add_done_callback(lambda _: self._begin())

    async def _run(self, pending: _Pending) -> None:
        job = pending.job
        outcome: Result | ShoalError
        try:
            outcome = await pending.work(job, lambda data: self._tell(job, data))
        except ShoalError as error:
            outcome = error
        except Exception:
            logger.exception("a job failed", extra={"action": "job_failed", "request_id": job.id})
            outcome = ShoalError("the server failed; the request id leads to the reason")
        self._end(job, JobState.SUCCEEDED if _is_success(outcome) else JobState.FAILED, outcome)

    def _tell(self, job: Job, data: bytes) -> None:
        if not job.final:
            job.events.append(data)
            self._count(job)

    def _late(self, job: Job) -> None:
        self._end(job, JobState.FAILED, DeadlineExceeded())

    def _end(self, job: Job, state: JobState, outcome: Result | ShoalError | None = None) -> None:
        """The first end of a job is its only one; what would come after it is dropped."""
        pending = self._pending.pop(job.id, None)
        if pending is None:
            return
        pending.timer.cancel()
        self._queue.remove(job.id, job.order.priority)
        if pending.task is not None and pending.task is not asyncio.current_task():
            pending.task.cancel()
        self._finish(job, state, outcome)

    def _finish(self, job: Job, state: JobState, outcome: Result | ShoalError | None) -> None:
        job.outcome = outcome
        if self._count(job) > 0:
            job.outcome = Overloaded("there is no room for the result beside those of other jobs")
            state = JobState.FAILED
        job.finished = self._wall_clock()
        job.enter(state)
        self._count(job)
        self._store.finished(job, now())
        self._watch_expiry()

    # -- bounds

    def _count(self, job: Job) -> int:
        """Make room for the job as it is now, at last from its own oldest events. Returns the bytes still too many."""
        excess = self._store.measure(job)
        if excess > 0:
            job.events.log.trim(excess)
            excess = self._store.measure(job)
        return excess

    def _watch_expiry(self) -> None:
        if self._expiry is None and (at := self._store.next_expiry) is not None:
            self._expiry = asyncio.get_running_loop().call_at(at, self._expire)

    def _expire(self) -> None:
        self._expiry = None
        self._store.expire(now())
        self._watch_expiry()


def _is_success(outcome: Result | ShoalError) -> bool:
    return isinstance(outcome, Result) and outcome.status < 400
