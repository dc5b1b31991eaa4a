"""The events of one answer, numbered, so that a reader can begin anywhere, come late, or come back.

A plain value that many readers share; ``live_log`` adds the waiting. A job's events live in one, and so can those of
any stream that its client shall be able to resume.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from shoal.errors import EventsGone

PAGE = 256  # events that a reader takes at once

_OVERHEAD = 160  # bytes of an event beside its data, measured: the objects that hold it


class Event(NamedTuple):
    number: int  # counted from 1; never used twice
    data: bytes
    name: str = ""  # empty: an ordinary one


class EventLog:
    """Events are appended until it is closed; the oldest can be dropped to make room."""

    def __init__(self) -> None:
        self.bytes_used = 0
        self.closed = False
        self.last = 0  # number of the newest event
        self._events: list[Event] = []

    def append(self, data: bytes, name: str = "") -> None:
        assert not self.closed
        self.last += 1
        event = Event(self.last, data, name)
        self._events.append(event)
        self.bytes_used += _size(event)

    def close(self) -> None:
        self.closed = True

    def trim(self, excess: int) -> None:
        """Drop the oldest events until ``excess`` bytes are free, or nothing is left."""
        dropped = 0
        while excess > 0 and dropped < len(self._events):
            size = _size(self._events[dropped])
            self.bytes_used -= size
            excess -= size
            dropped += 1
        del self._events[:dropped]

    def after(self, number: int, most: int = PAGE) -> Sequence[Event]:
        """What follows event ``number``, at most that many. Raises :class:`EventsGone` where some of it was dropped."""
        first = self.last - len(self._events) + 1
        if number + 1 < first:
            raise EventsGone(f"events before number {first} are no longer kept")
        begin = number + 1 - first
        return self._events[begin : begin + most]


def _size(event: Event) -> int:
    return len(event.data) + _OVERHEAD
