"""How many requests are let in. Beyond the bound the answer is no, at once, with the time to come back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress

from shoal.errors import Draining, Overloaded

RETRY_AFTER = 1.0  # seconds


class Admission:
    def __init__(self, max_in_flight: int) -> None:
        self.in_flight = 0
        self.closed = False  # draining: what runs may end, nothing new begins
        self._idle = asyncio.Event()
        self._idle.set()
        self._max_in_flight = max_in_flight

    @contextmanager
    def admit(self) -> Iterator[None]:
        """One place for as long as a request runs. Raises :class:`Overloaded` when there is none."""
        if self.closed:
            raise Draining(retry_after=RETRY_AFTER)
        if self.in_flight >= self._max_in_flight:
            raise Overloaded(
                f"the server is at its limit of {self._max_in_flight} requests at a time", retry_after=RETRY_AFTER
            )
        self.in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()

    async def drain(self, timeout: float) -> None:
        """Let nothing new in and wait until what runs has ended, at most ``timeout`` seconds."""
        self.closed = True
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout)


class Shares:
    """How many requests each peer may have running, so that no single one takes every place."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running: Counter[Hashable] = Counter()

    @contextmanager
    def take(self, peer: Hashable) -> Iterator[None]:
        """One place of the peer's for as long as a request runs. Raises :class:`Overloaded` when it has none left."""
        if self._running[peer] >= self._limit:
            raise Overloaded(f"one connection may have {self._limit} requests at a time", retry_after=RETRY_AFTER)
        self._running[peer] += 1
        try:
            yield
        finally:
            self._running[peer] -= 1
            if not self._running[peer]:
                del self._running[peer]
