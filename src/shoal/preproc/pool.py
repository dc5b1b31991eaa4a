"""Step processes of one model: a request goes to whichever is free, and outlives the one that dies with it."""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from shoal.aio import Tasks
from shoal.clock import now
from shoal.errors import DeadlineExceeded, EngineFailed, ModelLoadFailed, ModelUnavailable, Overloaded, WorkerLost
from shoal.launchers.local import RestartPolicy
from shoal.messages import RunSteps, StepsLoaded
from shoal.preproc.process import StepProcess
from shoal.types import Tensors

logger = logging.getLogger(__name__)

MAX_WAITING = 1024  # requests without a process
RETRY_AFTER = 1.0  # seconds
TRIES = 2  # processes that may die with a request before it is to blame
REST = 30.0  # seconds before a process that has died often is started once more


@dataclass(eq=False, slots=True)
class _Job:
    """One request's half of the steps. Its answer is done when somebody gave one, or nobody wants it any more."""

    message: RunSteps
    tries: int = TRIES
    answer: asyncio.Future[Tensors] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class StepPool:
    """``size`` processes, each made by ``start`` and started again when it dies.

    ``timeout``: seconds that a process may take for one request; beyond them it is killed.
    """

    def __init__(self, start: Callable[[], Awaitable[StepProcess]], *, size: int, timeout: float) -> None:
        self._start = start
        self._size = size
        self._timeout = timeout
        self._idle: list[StepProcess] = []  # the last that became free is taken first: its caches are warm
        self._working: set[StepProcess] = set()
        self._waiting: collections.deque[_Job] = collections.deque()
        self._resting: dict[int, str] = {}  # processes that died too often: their number, and how
        self._tasks = Tasks()
        self._closed = False
        self._loaded: asyncio.Future[StepsLoaded]  # of the first process that has made its steps, or could not

    def __repr__(self) -> str:
        return f"<StepPool of {self._size}, {len(self._idle)} free, {len(self._waiting)} requests wait>"

    @property
    def waiting(self) -> int:
        """Requests that no process has begun."""
        return len(self._waiting)

    async def start(self) -> StepsLoaded:
        """Start all processes; returns once the steps are made. Raises :class:`~shoal.errors.ModelLoadFailed`."""
        self._loaded = asyncio.get_running_loop().create_future()
        for number in range(self._size):
            self._tasks.start(self._keep_running(number), name=f"keep step process {number}")
        try:
            return await self._loaded
        except BaseException:
            await self.close()
            raise

    async def run(self, message: RunSteps) -> Tensors:
        """Have a process do it. Cancelling gives the place up.

        Raises what the steps raise; :class:`~shoal.errors.DeadlineExceeded` when they are stuck,
        :class:`~shoal.errors.EngineFailed` when processes die of the request, :class:`~shoal.errors.Overloaded` and
        :class:`~shoal.errors.ModelUnavailable`.
        """
        self._admit()
        job = _Job(message)
        self._waiting.append(job)
        self._dispatch()
        try:
            return await job.answer
        finally:
            # A process that has begun goes on to the end of the steps; nobody waits for it.
            if not job.answer.cancel() and not job.answer.cancelled():
                job.answer.exception()  # looked at, so asyncio does not report it as never retrieved
            if job in self._waiting:
                self._waiting.remove(job)

    async def close(self) -> None:
        self._closed = True
        await self._tasks.close()
        self._refuse_waiting(ModelUnavailable("the model is being unloaded"))

    # -- requests

    def _admit(self) -> None:
        if self._closed:
            raise ModelUnavailable("the model is being unloaded")
        if self._all_rest:
            raise self._unavailable()
        if len(self._waiting) >= MAX_WAITING:
            raise Overloaded(f"{MAX_WAITING} requests wait for a step process", retry_after=RETRY_AFTER)

    def _dispatch(self) -> None:
        # One that has just died is not taken; its keeper will notice soon.
        self._idle = [process for process in self._idle if process.is_alive]
        while self._idle and self._waiting:
            job = self._waiting.popleft()
            if not job.answer.done():
                process = self._idle.pop()
                self._working.add(process)
                self._tasks.start(self._run(process, job), name="steps of a request")

    async def _run(self, process: StepProcess, job: _Job) -> None:
        """Give the job an answer, or back to the queue; and the process, unless it is no good any more."""
        try:
            async with asyncio.timeout(self._timeout):
                _answer(job, await process.run(job.message))
        except TimeoutError:
            process.kill()  # its keeper starts another
            _fail(job, DeadlineExceeded(f"the steps of {job.message.half} did not end within {self._timeout:g} s"))
            return
        except WorkerLost:
            process.kill()  # whatever it was that ended, it is not used again
            self._retry(job)
            return
        except asyncio.CancelledError:
            _fail(job, ModelUnavailable("the model is being unloaded"))
            raise
        except Exception as error:  # a border: the error is the answer
            _fail(job, error)
        self._working.discard(process)
        self._idle.append(process)
        self._dispatch()

    def _retry(self, job: _Job) -> None:
        job.tries -= 1
        if job.tries:
            self._waiting.appendleft(job)
            self._dispatch()
            return
        _fail(job, EngineFailed(f"{TRIES} processes died of the steps of {job.message.half} for this request"))

    # -- processes

    async def _keep_running(self, number: int) -> None:
        policy = RestartPolicy()
        while True:
            began = now()
            reason, of_a_request = await self._live(number)
            # A few requests that kill whatever runs them must not take the processes from all the others.
            pause = policy.PAUSE if of_a_request else policy.delay(now() - began)
            extra = {"action": "step_process_died", "crashes": policy.crashes}
            logger.error("step process %d %s", number, reason, extra=extra)
            if pause is None:
                policy, pause = RestartPolicy(), REST
                self._rest(number, reason)
            await asyncio.sleep(pause)

    async def _live(self, number: int) -> tuple[str, bool]:
        """One life of a process; returns how it ended, and whether it ran a request then."""
        try:
            process = await self._start()
        except (ModelLoadFailed, OSError) as error:
            if not self._loaded.done():
                self._loaded.set_exception(ModelLoadFailed(str(error)))
            return f"did not start: {error}", False
        if not self._loaded.done():
            self._loaded.set_result(process.loaded)
        try:
            self._resting.pop(number, None)
            self._idle.append(process)
            self._dispatch()
            reason = await process.wait()
            return reason, process in self._working
        finally:
            self._working.discard(process)
            if process in self._idle:
                self._idle.remove(process)
            await process.stop()

    @property
    def _all_rest(self) -> bool:
        return len(self._resting) == self._size

    def _rest(self, number: int, reason: str) -> None:
        """Nobody should wait for a process that will not come."""
        self._resting[number] = reason
        if self._all_rest:
            self._refuse_waiting(self._unavailable())

    def _unavailable(self) -> ModelUnavailable:
        return ModelUnavailable(
            f"the step processes died again and again, last: {next(reversed(self._resting.values()))}"
        )

    def _refuse_waiting(self, error: ModelUnavailable) -> None:
        while self._waiting:
            _fail(self._waiting.popleft(), error)


def _answer(job: _Job, tensors: Tensors) -> None:
    if not job.answer.done():
        job.answer.set_result(tensors)


def _fail(job: _Job, error: Exception) -> None:
    if not job.answer.done():
        job.answer.set_exception(error)
