"""A run that several identical requests share. It belongs to no client: it lives as long as somebody reads it.

A run that takes one answer only, as those of most tensor models do, has no generators on its way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing

from shoal.coordinator.observation import is_last
from shoal.coordinator.replay import Reader, Replay
from shoal.coordinator.response_codec import size_of
from shoal.errors import DeadlineExceeded, Draining, Overloaded, ShoalError, WorkerLost, from_info
from shoal.messages import Answer


class Flight:
    """``run`` gives the answer in parts, or ``run_once`` all of it or its first part; ``ended`` is told, once or more
    often, that nobody may join any more: with the whole answer, or with None.

    ``deadline`` is the run's, on the loop's clock.
    """

    def __init__(
        self,
        run: Callable[[], AsyncGenerator[Answer, None]] | None = None,
        *,
        run_once: Callable[[], Awaitable[Answer]] | None = None,
        deadline: float,
        limit: int,
        ended: Callable[[Flight, Sequence[Answer] | None], None],
    ) -> None:
        self.deadline = deadline
        self.task: asyncio.Task[None] | None = None
        self._run = run
        self._run_once = run_once
        self._ended = ended
        self._replay: Replay[Answer] = Replay(limit)
        self._waiting: dict[Reader, asyncio.Future[None]] = {}
        self._error: Exception | None = None
        self._is_over = False  # the last part is in
        self._moved: asyncio.Event | None = None  # set when the run waits for its readers

    def __repr__(self) -> str:
        return f"<Flight of {len(self._replay.readers)} readers>"

    @property
    def has_parts(self) -> bool:
        """Will all parts of an answer come, if it has several?"""
        return self._run is not None

    @property
    def readers(self) -> int:
        return len(self._replay.readers)

    async def fly(self) -> None:
        """Run until the answer has ended. Whatever ends it, every reader is told."""
        try:
            if self._run_once is not None:
                self._take_in(await self._run_once())
            if self._run is not None:
                await self._fly_in_parts(self._run)
            if not self._is_over:
                raise WorkerLost("the answer ended before its end")
        except asyncio.CancelledError:
            self._fail(Draining("the coordinator stops"))
            raise
        except Exception as error:  # each reader raises it to its own client
            self._fail(error)

    async def _fly_in_parts(self, run: Callable[[], AsyncGenerator[Answer, None]]) -> None:
        async with aclosing(run()) as answers:
            async for answer in answers:
                if self._replay.must_wait():
                    await self._readers_come_near()
                self._take_in(answer)
                if self._is_over:
                    return

    async def first(self, deadline: float) -> Answer:
        """The first part of the answer, which often is all of it. Raises as :meth:`follow` does."""
        reader = self._replay.join()
        timer = asyncio.get_running_loop().call_at(deadline, self._expire, reader)
        try:
            while (answer := self._replay.next(reader)) is None:
                await self._next_part(reader)
            return answer
        finally:
            timer.cancel()
            self._leave(reader)

    async def follow(self, deadline: float) -> AsyncGenerator[Answer, None]:
        """The answer from its beginning: at once what is there, then the rest as it comes. Raises what ended the run,
        :class:`DeadlineExceeded`, and :class:`Overloaded` for a reader that falls too far behind the others."""
        reader = self._replay.join()
        timer = asyncio.get_running_loop().call_at(deadline, self._expire, reader)
        try:
            while True:
                answer = self._replay.next(reader)
                if answer is None:
                    await self._next_part(reader)
                    continue
                if self._moved is not None:
                    self._moved.set()
                yield answer
                if is_last(answer):
                    return
        finally:
            timer.cancel()
            self._leave(reader)

    async def _next_part(self, reader: Reader) -> None:
        if reader.given_up:
            raise Overloaded("the answer was read too slowly", retry_after=1.0)
        if self._error is not None:
            raise _own(self._error)
        if reader.expired:
            raise DeadlineExceeded("the answer did not end within its deadline")
        future = self._waiting[reader] = asyncio.get_running_loop().create_future()
        try:
            await future
        finally:
            self._waiting.pop(reader, None)

    async def _readers_come_near(self) -> None:
        while self._replay.must_wait():
            self._moved = asyncio.Event()
            await self._moved.wait()
        self._moved = None

    def _take_in(self, answer: Answer) -> None:
        self._replay.add(answer, size_of(answer))
        self._is_over = is_last(answer)
        if not self._replay.is_whole:
            self._ended(self, None)
        elif self._is_over:
            self._ended(self, self._replay.whole())
        self._wake()

    def _fail(self, error: Exception) -> None:
        self._error = error
        self._ended(self, None)
        self._wake()

    def _wake(self) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_result(None)

    def _expire(self, reader: Reader) -> None:
        """A reader that does not wait finds out before it waits again."""
        reader.expired = True
        future = self._waiting.get(reader)
        if future is not None and not future.done():
            future.set_result(None)

    def _leave(self, reader: Reader) -> None:
        self._replay.leave(reader)
        if self._moved is not None:
            self._moved.set()
        if not self._replay.readers and not self._is_over and self.task is not None:
            self._ended(self, None)
            self.task.cancel()


def _own(error: Exception) -> Exception:
    """An error of one's own: one that many raise would collect the tracebacks of all."""
    return from_info(error.to_info()) if isinstance(error, ShoalError) else error
