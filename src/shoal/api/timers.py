"""Timers that are nearly always cancelled, many for the price of one of the loop's.

Arming and disarming a timer of the loop costs about 4 µs, and each request needs several only to bound what never
happens. Here starting and cancelling one is an entry in a set; a single timer of the loop stands for them all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

SLACK = 0.005  # seconds a timer may be late, so that many that are due one after the other ring together


class Timer:
    __slots__ = ("_waiting", "callback", "when")

    def __init__(self, when: float, callback: Callable[[], None], waiting: set[Timer]) -> None:
        self.when = when
        self.callback = callback
        self._waiting = waiting
        waiting.add(self)

    def cancel(self) -> None:
        self._waiting.discard(self)


class Timers:
    """The timers of one event loop."""

    def __init__(self) -> None:
        self._waiting: set[Timer] = set()
        self._alarm: asyncio.TimerHandle | None = None  # rings for the earliest, or for one cancelled since

    def __len__(self) -> int:
        return len(self._waiting)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        loop = asyncio.get_running_loop()
        timer = Timer(loop.time() + seconds, callback, self._waiting)
        if self._alarm is None or timer.when < self._alarm.when():
            self._arm(loop, timer.when)
        return timer

    def _arm(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = loop.call_at(when, self._ring, loop)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        self._alarm = None
        now = loop.time()
        for timer in [timer for timer in self._waiting if timer.when <= now]:
            timer.cancel()
            timer.callback()
        if self._waiting:
            earliest = min(timer.when for timer in self._waiting)
            self._arm(loop, max(earliest, now + SLACK))
