"""An event log that grows while it is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from shoal.coordinator.event_log import Event, EventLog


class LiveLog:
    """Its readers wait for what is still to come. Each takes at its own pace and holds up nobody."""

    def __init__(self) -> None:
        self.log = EventLog()
        self._news = asyncio.Event()

    def append(self, data: bytes, name: str = "") -> None:
        self.log.append(data, name)
        self._tell()

    def close(self) -> None:
        self.log.close()
        self._tell()

    async def follow(self, number: int, *, idle: float) -> AsyncGenerator[Sequence[Event], None]:
        """All events after ``number`` up to the end, some at a time; none after ``idle`` seconds without any.

        Raises :class:`EventsGone` for a reader so late that they were dropped.
        """
        while True:
            news = self._news  # before looking: what comes from here on sets it
            events = self.log.after(number)
            if events:
                number = events[-1].number
                yield events
            elif self.log.closed:
                return
            elif not await _set_within(news, idle):
                yield ()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


async def _set_within(news: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await news.wait()
    except TimeoutError:
        return False
