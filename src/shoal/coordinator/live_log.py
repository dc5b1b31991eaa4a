"""An event log that grows while it is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Generic, TypeVar

from shoal.coordinator.event_log import Event, EventLog

D = TypeVar("D")


class LiveLog(Generic[D]):
    """Its readers wait for what is still to come. Each takes at its own pace and holds up nobody."""

    def __init__(self, size_of: Callable[[D], int]) -> None:
        self.log = EventLog(size_of)
        self._news: asyncio.Event | None = None  # while somebody waits

    def append(self, data: D, name: str = "") -> None:
        self.log.append(data, name)
        self._tell()

    def close(self) -> None:
        self.log.close()
        self._tell()

    async def follow(self, number: int, *, idle: float | None) -> AsyncGenerator[Sequence[Event[D]], None]:
        """All events after ``number`` up to the end, some at a time; none after ``idle`` seconds without any, if there
        is such a limit.

        Raises :class:`EventsGone` for a reader so late that they were dropped.
        """
        while True:
            events = self.log.after(number)
            if events:
                number = events[-1].number
                yield events
            elif self.log.closed:
                return
            elif not await self._hears(idle):
                yield ()

    async def _hears(self, seconds: float | None) -> bool:
        self._news = self._news or asyncio.Event()
        if seconds is None:
            return await self._news.wait()
        try:
            async with asyncio.timeout(seconds):
                return await self._news.wait()
        except TimeoutError:
            return False

    def _tell(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news = None
