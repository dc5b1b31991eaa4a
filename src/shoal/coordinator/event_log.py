"""The events of one answer, numbered, so that a reader can begin anywhere, come late, or come back.

A plain value that many readers share; ``live_log`` adds the waiting. A job's events live in one, and so do the parts
of every answer that its client may come back for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from shoal.errors import EventsGone

PAGE = 256  # events that a reader takes at once

_OVERHEAD = 160  # bytes of an event beside its data, measured: the objects that hold it

D = TypeVar("D")


class Event(NamedTuple, Generic[D]):
    number: int  # counted from 1; never used twice
    data: D
    name: str = ""  # empty: an ordinary one


class EventLog(Generic[D]):
    """Events are appended until it is closed; the oldest can be dropped to make room. ``size_of``: bytes of one."""

    def __init__(self, size_of: Callable[[D], int]) -> None:
        self.bytes_used = 0
        self.closed = False
        self.last = 0  # number of the newest event
        self._events: list[Event[D]] = []
        self._size_of = size_of

    def append(self, data: D, name: str = "") -> None:
        assert not self.closed
        self.last += 1
        self._events.append(Event(self.last, data, name))
        self.bytes_used += self._size_of(data) + _OVERHEAD

    def close(self) -> None:
        self.closed = True

    def trim(self, excess: int) -> None:
        """Drop the oldest events until ``excess`` bytes are free, or nothing is left."""
        dropped = 0
        while excess > 0 and dropped < len(self._events):
            size = self._size_of(self._events[dropped].data) + _OVERHEAD
            self.bytes_used -= size
            excess -= size
            dropped += 1
        del self._events[:dropped]

    def release(self, number: int) -> None:
        """Drop the events up to this one, which all have read."""
        first = self.last - len(self._events) + 1
        read = self._events[: max(0, number + 1 - first)]
        self.trim(sum(self._size_of(event.data) + _OVERHEAD for event in read))

    def after(self, number: int, most: int = PAGE) -> Sequence[Event[D]]:
        """What follows event ``number``, at most that many. Raises :class:`EventsGone` where some of it was dropped."""
        first = self.last - len(self._events) + 1
        if number + 1 < first:
            raise EventsGone(f"events before number {first} are no longer kept")
        begin = number + 1 - first
        return self._events[begin : begin + most]
