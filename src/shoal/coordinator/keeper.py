"""Makes answers apart from their clients, and keeps them for those that come back.

Only for clients that have shown that they can: with an idempotency-key, with Last-Event-ID, or by the native protocol.
What any other client asks for ends with its connection and costs nothing here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, TypeVar

from shoal.aio import Tasks
from shoal.clock import now
from shoal.config import KeepConfig
from shoal.coordinator.answer_store import AnswerStore
from shoal.coordinator.event_log import Event
from shoal.coordinator.kept_answer import KeptAnswer
from shoal.errors import Cancelled, Draining, ShoalError
from shoal.telemetry import KeptMetrics

logger = logging.getLogger(__name__)

D = TypeVar("D")
Store = AnswerStore[KeptAnswer[Any]]


class Keeper:
    """Those with an idempotency-key live for long, the others for the grace period: neither may crowd out the other."""

    def __init__(self, config: KeepConfig, metrics: KeptMetrics) -> None:
        self.metrics = metrics
        self._grace = config.grace
        most, max_bytes = config.max_answers // 2, config.max_bytes // 2
        self._keyed = Store("answers with an idempotency-key", most=most, max_bytes=max_bytes, ttl=config.ttl)
        self._others = Store("streams that can be resumed", most=most, max_bytes=max_bytes, ttl=config.grace)
        self._tasks = Tasks()
        self._expiry: asyncio.TimerHandle | None = None
        self._unread = set[KeptAnswer[Any]]()  # those whose grace runs
        self._leaving = False
        metrics.size = self._size

    def find(self, answer_id: str, scope: str) -> KeptAnswer[Any] | None:
        found = self._keyed.find(answer_id, now()) or self._others.find(answer_id, now())
        return found if found is not None and found.scope == scope else None

    def with_key(self, key: str, digest: bytes) -> KeptAnswer[Any] | None:
        """The answer to the same request that has the same key. Raises :class:`~shoal.errors.Conflict`."""
        return self._keyed.with_key(key, digest, now())

    def begin(self, answer: KeptAnswer[D], make: Callable[[], Coroutine[Any, Any, bool]], *, name: str) -> None:
        """``make`` adds the parts, and returns whether they are an answer to give out again. From now on somebody
        reads it, or it is given up. Raises :class:`~shoal.errors.Overloaded` when there is no room for one more, and
        :class:`~shoal.errors.Conflict` for a name that is taken."""
        self._store(answer).add(answer, now())
        answer.task = self._tasks.start(self._make(answer, make), name=name)
        answer.task.add_done_callback(lambda task: self._ended(answer, task))

    def add(self, answer: KeptAnswer[D], part: D) -> None:
        """One more part. An answer too large to be kept goes to its present readers alone."""
        answer.parts.append(part)
        if self._store(answer).measure(answer) > 0:
            self.metrics.dropped()
            self._forget(answer)

    async def read(self, answer: KeptAnswer[D], after: int) -> AsyncGenerator[Sequence[Event[D]], None]:
        """The parts behind that number, as they come; the answer goes on for the grace period without any reader."""
        with self._reader(answer, after) as reader:
            async with aclosing(answer.parts.follow(after, idle=None)) as pages:
                async for page in pages:
                    yield page
                    answer.readers[reader] = page[-1].number
                    if not answer.can_be_asked_for:
                        answer.parts.log.release(min(answer.readers.values()))

    def give_up(self, answer: KeptAnswer[D]) -> None:
        """Nobody will come for it: end the computing."""
        self._stop_grace(answer)
        self._forget(answer)
        if answer.task is not None and not answer.task.done():
            self.metrics.abandoned()
            answer.error = Cancelled("the answer was given up")
            answer.task.cancel()

    def leave(self) -> None:
        """The coordinator is about to stop, and waits for readers, but for nobody to come back."""
        self._leaving = True
        for answer in list(self._unread):
            self.give_up(answer)

    async def close(self) -> None:
        """Cancel what runs; its readers are told."""
        await self._tasks.close()
        if self._expiry is not None:
            self._expiry.cancel()

    # -- made

    async def _make(self, answer: KeptAnswer[D], make: Callable[[], Coroutine[Any, Any, bool]]) -> bool:
        try:
            return await make()
        except ShoalError as error:
            answer.error = error
        except Exception:
            logger.exception("an answer failed", extra={"action": "answer_failed"})
            answer.error = ShoalError("the server failed")
        return False

    def _ended(self, answer: KeptAnswer[D], task: asyncio.Task[bool]) -> None:
        """Not at the end of the task's own code: one that is cancelled before its first step runs none of it."""
        self._stop_grace(answer)
        is_whole = not task.cancelled() and task.result()
        if task.cancelled():
            answer.error = answer.error or Draining("the coordinator stops")
        answer.parts.close()
        if not is_whole:  # who asks with the same key again shall have another attempt
            self._store(answer).free_key(answer)
        if answer.named or (answer.key and is_whole):
            self._store(answer).finished(answer, now())
            self._watch_expiry()
        else:
            self._forget(answer)

    # -- read

    @contextmanager
    def _reader(self, answer: KeptAnswer[D], after: int) -> Iterator[object]:
        reader = object()
        answer.readers[reader] = after
        self._stop_grace(answer)
        try:
            yield reader
        finally:
            del answer.readers[reader]
            if not answer.readers and not answer.ended:
                self._begin_grace(answer)

    def _begin_grace(self, answer: KeptAnswer[D]) -> None:
        if answer.can_be_asked_for and not self._leaving:
            answer.grace = asyncio.get_running_loop().call_later(self._grace, self.give_up, answer)
            self._unread.add(answer)
        else:
            self.give_up(answer)

    def _stop_grace(self, answer: KeptAnswer[D]) -> None:
        self._unread.discard(answer)
        if answer.grace is not None:
            answer.grace.cancel()
            answer.grace = None

    # -- kept

    def _store(self, answer: KeptAnswer[D]) -> Store:
        return self._keyed if answer.key else self._others

    def _forget(self, answer: KeptAnswer[D]) -> None:
        self._store(answer).forget(answer)
        answer.named, answer.key = False, ""

    def _size(self) -> tuple[int, int]:
        stores = (self._keyed, self._others)
        return sum(map(len, stores)), sum(store.bytes_used for store in stores)

    def _watch_expiry(self) -> None:
        times = [at for store in (self._keyed, self._others) if (at := store.next_expiry) is not None]
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry = asyncio.get_running_loop().call_at(min(times), self._expire) if times else None

    def _expire(self) -> None:
        for store in (self._keyed, self._others):
            store.expire(now())
        self._watch_expiry()
