"""The queue in front of one model: gathers, runs, hands out; :mod:`shoal.batcher.policy` decides."""

from __future__ import annotations

import asyncio
import logging
import math
from bisect import insort
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from operator import attrgetter

from shoal.aio import Tasks
from shoal.batcher.arrivals import Arrivals
from shoal.batcher.cost import CostFit
from shoal.batcher.entry import Entry
from shoal.batcher.isolation import Isolation, halves, own_copy
from shoal.batcher.observer import NO_OBSERVER, BatchObserver, record_spans
from shoal.batcher.padding import Padding
from shoal.batcher.policy import (
    BatchLimits,
    Flush,
    Outlook,
    Release,
    WaitUntil,
    decide,
    decide_beside,
    is_too_late,
    rank,
    rows_allowed,
    run_size,
)
from shoal.batcher.runs import Run, Runs
from shoal.batcher.stacking import count_rows, split, stack, stacking_key
from shoal.clock import now
from shoal.errors import DeadlineExceeded, EngineFailed, ModelUnavailable, Overloaded, PayloadTooLarge
from shoal.types import Tensors

logger = logging.getLogger(__name__)

LONGEST_SPAN = 10  # times ``max_wait``: clients that pause longer all count the same
RETRY_AFTER = 1.0  # seconds, before the first run has shown how fast the model is
LONGEST_RETRY_AFTER = 60.0  # seconds

#: Runs the model once; yields the outputs, or the parts of them one by one, each with the rows of the inputs.
Execute = Callable[[Tensors], AsyncGenerator[Tensors]]


class Batcher:
    """Runs the rows of concurrent requests together; while a batch runs the next one gathers.

    ``execute`` gets at most ``max_rows`` rows at a time, in up to ``runs_at_once`` runs where that pays. A batch that
    fails before the first part of its outputs is run again in halves, so that one bad request fails by itself.
    ``model`` is a name for ``observer``.
    """

    def __init__(
        self,
        execute: Execute,
        limits: BatchLimits,
        *,
        padding: Padding = Padding(),  # noqa: B008  (it does not change)
        model: str = "",
        observer: BatchObserver = NO_OBSERVER,
        runs_at_once: int = 1,
    ) -> None:
        self._execute = execute
        self._limits = limits
        self._padding = padding
        self._model = model
        self._observer = observer
        self._queue: list[Entry] = []  # by rank
        self._runs = Runs(runs_at_once)
        self._cost = CostFit()
        self._arrivals = Arrivals(LONGEST_SPAN * limits.max_wait)
        self._free_since = -math.inf  # when the last run ended
        self._news = asyncio.Event()  # something came, or a run ended
        self._tasks = Tasks()
        self._runner: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def queued(self) -> int:
        """Requests, or parts of long ones, that wait for a run."""
        return len(self._queue)

    @property
    def queued_rows(self) -> int:
        return sum(entry.rows for entry in self._queue)

    async def submit(
        self, inputs: Tensors, *, priority: int = 0, deadline: float | None = None, trace: str = ""
    ) -> Tensors:
        """Run the rows of one request, with those of others.

        The higher the ``priority`` the sooner; where it would not end by its ``deadline`` (on the loop's clock) it is
        not begun any more.

        Raises :class:`~shoal.errors.Overloaded` when the queue is full, :class:`~shoal.errors.PayloadTooLarge`
        when the request would not fit even an empty one, :class:`~shoal.errors.InvalidRequest` when the arrays
        have no common first axis, :class:`~shoal.errors.DeadlineExceeded`, and what ``execute`` raises. Cancelling
        gives the place in the queue back.
        """
        fitted = self._padding.fit(inputs)
        entries = self._enter(fitted.inputs, priority, deadline, trace)
        try:
            outputs = stack([await _whole(entry) for entry in entries])
        finally:
            self._withdraw(entries)
        return self._padding.cut(outputs, fitted.lengths)

    async def stream(
        self, inputs: Tensors, *, priority: int = 0, deadline: float | None = None, trace: str = ""
    ) -> AsyncGenerator[Tensors]:
        """The same for a model that answers in parts; a request has to fit one run."""
        if (rows := count_rows(inputs)) > self._limits.max_rows:
            most = self._limits.max_rows
            raise PayloadTooLarge(f"the request has {rows} rows; a model that streams takes at most {most}")
        fitted = self._padding.fit(inputs)
        entries = self._enter(fitted.inputs, priority, deadline, trace, whole=True)
        try:
            while (part := await entries[0].next()) is not None:
                yield self._padding.cut(part, fitted.lengths)
        finally:
            self._withdraw(entries)

    # -- the queue

    def _enter(
        self, inputs: Tensors, priority: int, deadline: float | None, trace: str, *, whole: bool = False
    ) -> list[Entry]:
        """Who enters has to be withdrawn in the end. ``whole``: in one run."""
        entries = self._admit(inputs, priority, deadline, trace, whole=whole)
        for entry in entries:
            insort(self._queue, entry, key=_rank)
        self._arrivals.arrived(entries[0].arrived)
        self._wake()
        return entries

    def _admit(self, inputs: Tensors, priority: int, deadline: float | None, trace: str, *, whole: bool) -> list[Entry]:
        """Cut into entries of at most ``max_rows``; refuse what there is no room for."""
        if self._closed:
            raise ModelUnavailable("the model is being unloaded")
        rows, limits = count_rows(inputs), self._limits
        if rows > limits.max_queue_rows:
            raise PayloadTooLarge(f"the request has {rows} rows; at most {limits.max_queue_rows} are allowed")
        most = len(self._queue) * limits.max_rows  # rows that can be waiting: to count them takes longer
        if most + rows > limits.max_queue_rows and (waiting := self.queued_rows) + rows > limits.max_queue_rows:
            message = f"{waiting} rows are waiting; at most {limits.max_queue_rows} may"
            raise Overloaded(message, retry_after=self._retry_after(waiting))
        arrived, key = now(), stacking_key(inputs)
        sizes = [rows] if whole else self._sizes(rows)
        return [
            Entry(
                part,
                size,
                key=key,
                arrived=arrived,
                rank=rank(priority, arrived),
                deadline=deadline,
                trace=trace,
            )
            for part, size in zip(split(inputs, sizes) if len(sizes) > 1 else [inputs], sizes, strict=True)
        ]

    def _sizes(self, rows: int) -> list[int]:
        """The parts of a request: each fits one run, and runs at once can share them."""
        most = self._limits.max_rows
        shared = most // self._runs.at_once
        if rows > shared and run_size(self._limits, self._outlook()).least_beside is not None:
            most = shared
        return [min(most, rows - start) for start in range(0, rows, most)]

    def _retry_after(self, waiting: int) -> float:
        """Seconds until the rows that wait now have run, as fast as the model has been."""
        if (cost := self._cost.cost) is None:
            return RETRY_AFTER
        rows = rows_allowed(self._limits, cost)
        return min(LONGEST_RETRY_AFTER, -(-waiting // rows) * cost.of(rows))

    def _withdraw(self, entries: Sequence[Entry]) -> None:
        """Nobody waits for these any more. A batch that already runs with them goes on for the others."""
        early = [entry for entry in entries if not entry.done]
        for entry in entries:
            entry.leave()
        if early:
            self._queue = [entry for entry in self._queue if not entry.done]

    def _drop_late(self) -> None:
        """Those who would not be answered by their deadline are not computed: nobody would take the answer."""
        at, outlook = now(), self._outlook()
        late = [entry for entry in self._queue if is_too_late(entry, at, outlook)]
        for entry in late:
            entry.end(DeadlineExceeded("the request waited for the model until it could not be answered in time"))
        if late:
            self._queue = [entry for entry in self._queue if not entry.done]

    # -- the runner

    def _wake(self) -> None:
        """There is a runner whenever something waits, and none otherwise."""
        if not self._runs.full:  # else nothing is decided before a run has ended
            self._news.set()
        if self._runner is None or self._runner.done():
            self._runner = self._tasks.start(self._run_queue(), name="batcher")

    async def _run_queue(self) -> None:
        while self._queue:
            self._news.clear()
            match self._decide():
                case Flush(entries, reason):
                    taken = set(entries)
                    self._queue = [entry for entry in self._queue if entry not in taken]
                    self._tasks.start(self._run_batch(self._runs.add(entries, now()), reason), name="batch")
                case WaitUntil(time):
                    await self._wait_for_news(time)
                case None if self._runs:
                    await self._news.wait()

    async def _run_batch(self, run: Run, reason: Release) -> None:
        try:
            await self._attempt(run.entries, reason, Isolation(len(run.entries)))
        finally:
            self._runs.remove(run)
            self._free_since = now()
            self._arrivals.answered(sum(not entry.left for entry in run.entries), self._free_since)
            self._news.set()

    def _decide(self) -> Flush[Entry] | WaitUntil | None:
        if self._runs.full:
            return None
        self._drop_late()
        if not self._runs:
            return decide(self._queue, now(), self._limits, self._outlook())
        return decide_beside(
            self._queue, now(), self._runs.running(self._cost.cost, now()), self._limits, self._outlook()
        )

    def _outlook(self) -> Outlook:
        arrivals = self._arrivals
        return Outlook(
            self._cost.cost, self._free_since, arrivals.seen, arrivals.gap, arrivals.burst, self._runs.at_once
        )

    async def _wait_for_news(self, until: float) -> None:
        try:
            async with asyncio.timeout_at(until):
                await self._news.wait()
        except TimeoutError:
            return

    # -- a run

    async def _attempt(self, entries: Sequence[Entry], reason: Release, isolation: Isolation) -> None:
        """Answer every entry, with its outputs or with what went wrong."""
        began, rows = now(), sum(entry.rows for entry in entries)
        work_began = self._runs.engine_time.begin(began)
        error = await self._run(entries)
        ran, work = now() - began, self._runs.engine_time.end(now()) - work_began
        waited = began - min(entry.arrived for entry in entries)
        self._observer.batch_released(self._model, reason, rows, len(entries), waited, ran)
        record_spans(entries, began, ran, reason)
        if error is None:
            isolation.succeeded()
            if not all(entry.left for entry in entries):  # then it may have been cut short
                self._cost.observe(rows, work)
            for entry in entries:
                entry.end()
        else:
            isolation.failed(error, ran)
            await self._after_failure(entries, error, isolation)

    async def _run(self, entries: Sequence[Entry]) -> Exception | None:
        """Give every entry its rows as they come; returns what went wrong."""
        sizes, parts = [entry.rows for entry in entries], 0
        try:
            async with aclosing(self._execute(stack([entry.inputs for entry in entries]))) as outputs:
                async for part in outputs:
                    parts += 1
                    for entry, rows in zip(entries, list(split(part, sizes)), strict=True):
                        entry.give(rows)
                    if all(entry.done for entry in entries):  # nobody is there any more
                        break
        except asyncio.CancelledError:
            if self._closed:
                raise
            # Not we were cancelled, but what we waited for: the queue must live on.
            return EngineFailed("the run was cancelled")
        except Exception as error:  # a border: the error is the answer
            return error
        return None if parts else EngineFailed("the run ended without outputs")

    async def _after_failure(self, entries: Sequence[Entry], error: Exception, isolation: Isolation) -> None:
        """Alone, an entry has its own error, and so has one that was answered in part; others get another try."""
        again = [entry for entry in entries if not entry.done and not entry.begun]
        if len(entries) == 1 or isolation.hopeless:
            again = []
        for entry in entries:
            if entry not in again:
                entry.end(own_copy(error))
        if again:
            logger.info(
                "a batch of %d requests failed, its halves are tried apart",
                len(entries),
                extra={"action": "batch_split", "entries": len(entries), "error": type(error).__name__},
            )
        for half in halves(again):
            if isolation.hopeless:
                for entry in half:
                    entry.end(own_copy(error))
            elif wanted := [entry for entry in half if not entry.done]:
                await self._attempt(wanted, Release.RETRY, isolation)

    async def close(self) -> None:
        """Take nothing more; whoever still waits gets an error."""
        self._closed = True
        unanswered = [*self._queue, *self._runs.entries]
        self._queue = []
        await self._tasks.close()
        for entry in unanswered:
            entry.end(ModelUnavailable("the model is being unloaded"))


_rank = attrgetter("rank")


async def _whole(entry: Entry) -> Tensors:
    """The outputs of a model that answers once."""
    outputs = await entry.next()
    if outputs is None or await entry.next() is not None:
        raise EngineFailed("the model answered in parts, and the request was for a whole")
    return outputs
