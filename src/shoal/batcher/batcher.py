"""The queue in front of one model: gathers, runs, hands out; :mod:`shoal.batcher.policy` decides."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field

from shoal.aio import Tasks
from shoal.batcher.policy import BatchLimits, Flush, Release, WaitUntil, decide
from shoal.batcher.stacking import count_rows, split, stack, stacking_key
from shoal.clock import now
from shoal.errors import EngineFailed, ModelUnavailable, Overloaded, PayloadTooLarge
from shoal.types import Tensors

logger = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Entry:
    """Rows that wait for a run. Its future is done when somebody has answered it, or nobody wants it any more."""

    inputs: Tensors
    rows: int
    key: Hashable
    arrived: float
    answer: asyncio.Future[Tensors] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher:
    """Runs the rows of concurrent requests together, one batch at a time; while it runs the next one gathers.

    ``execute`` never sees more than ``max_rows`` rows. It is called again with each entry alone when it fails with
    several, so that one bad request fails by itself.
    """

    def __init__(self, execute: Callable[[Tensors], Awaitable[Tensors]], limits: BatchLimits) -> None:
        self._execute = execute
        self._limits = limits
        self._queue: list[_Entry] = []  # oldest first
        self._running: list[_Entry] = []
        self._arrival = asyncio.Event()
        self._tasks = Tasks()
        self._runner: asyncio.Task[None] | None = None
        self._closed = False
        self.released: Counter[Release] = Counter()  # batches, by why they were let go

    @property
    def queued_rows(self) -> int:
        return sum(entry.rows for entry in self._queue)

    async def submit(self, inputs: Tensors) -> Tensors:
        """Run the rows of one request, with those of others.

        Raises :class:`~shoal.errors.Overloaded` when the queue is full, :class:`~shoal.errors.PayloadTooLarge`
        when the request would not fit even an empty one, :class:`~shoal.errors.InvalidRequest` when the arrays
        have no common first axis, and what ``execute`` raises. Cancelling gives the place in the queue back.
        """
        entries = self._admit(inputs)
        self._queue += entries
        self._wake()
        try:
            return stack([await entry.answer for entry in entries])
        finally:
            self._withdraw(entries)

    def _admit(self, inputs: Tensors) -> list[_Entry]:
        """Cut into entries of at most ``max_rows``; refuse what there is no room for."""
        if self._closed:
            raise ModelUnavailable("the model is being unloaded")
        rows, limits = count_rows(inputs), self._limits
        if rows > limits.max_queue_rows:
            raise PayloadTooLarge(f"the request has {rows} rows; at most {limits.max_queue_rows} are allowed")
        if self.queued_rows + rows > limits.max_queue_rows:
            raise Overloaded(f"{self.queued_rows} rows are waiting; at most {limits.max_queue_rows} may")
        key, arrived = stacking_key(inputs), now()
        sizes = [min(limits.max_rows, rows - start) for start in range(0, rows, limits.max_rows)]
        return [_Entry(part, size, key, arrived) for part, size in zip(split(inputs, sizes), sizes, strict=True)]

    def _withdraw(self, entries: Sequence[_Entry]) -> None:
        """Nobody waits for these any more. A batch that already runs with them goes on for the others."""
        for entry in entries:
            if not entry.answer.cancel() and not entry.answer.cancelled():
                entry.answer.exception()  # looked at, so asyncio does not report it as never retrieved
        self._queue = [entry for entry in self._queue if not entry.answer.done()]

    def _wake(self) -> None:
        """There is a runner whenever something waits, and none otherwise."""
        self._arrival.set()
        if self._runner is None or self._runner.done():
            self._runner = self._tasks.start(self._run_queue(), name="batcher")

    async def _run_queue(self) -> None:
        while (decision := decide(self._queue, now(), self._limits)) is not None:
            match decision:
                case WaitUntil(time):
                    await self._wait_for_company(time)
                case Flush(entries, reason):
                    self.released[reason] += 1
                    self._running = entries
                    taken = set(entries)
                    self._queue = [entry for entry in self._queue if entry not in taken]
                    await self._run_batch(entries)
                    self._running = []

    async def _wait_for_company(self, until: float) -> None:
        self._arrival.clear()
        try:
            async with asyncio.timeout_at(until):
                await self._arrival.wait()
        except TimeoutError:
            return

    async def _run_batch(self, entries: Sequence[_Entry]) -> None:
        """Answer every entry, with its outputs or with what went wrong."""
        try:
            outputs = await self._execute(stack([entry.inputs for entry in entries]))
            answers = list(split(outputs, [entry.rows for entry in entries]))
        except asyncio.CancelledError:
            if self._closed:
                raise
            # Not we were cancelled, but what we waited for: the queue must live on.
            await self._after_failure(entries, EngineFailed("the run was cancelled"))
            return
        except Exception as error:  # a border: the error is the answer
            await self._after_failure(entries, error)
            return
        for entry, answer in zip(entries, answers, strict=True):
            if not entry.answer.done():
                entry.answer.set_result(answer)

    async def _after_failure(self, entries: Sequence[_Entry], error: Exception) -> None:
        """Alone, an entry has its own error; of several, each gets a try alone."""
        if len(entries) == 1:
            if not entries[0].answer.done():
                entries[0].answer.set_exception(error)
            return
        logger.info(
            "a batch of %d requests failed, each is tried alone",
            len(entries),
            extra={"action": "batch_split", "entries": len(entries), "error": type(error).__name__},
        )
        for entry in entries:
            if not entry.answer.done():
                await self._run_batch([entry])

    async def close(self) -> None:
        """Take nothing more; whoever still waits gets an error."""
        self._closed = True
        await self._tasks.close()
        for entry in self._queue + self._running:
            if not entry.answer.done():
                entry.answer.set_exception(ModelUnavailable("the model is being unloaded"))
        self._queue, self._running = [], []
