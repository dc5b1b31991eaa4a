"""One answer and its readers, each at a place of its own: the bookkeeping of coalesced requests.

Up to its limit an answer is kept whole, so that a reader may join late and read it from the beginning. Beyond, nobody
joins any more, and what all have read is let go; then a reader that falls behind by the limit, while another keeps up,
is given up. So memory is bounded, and no reader waits for another.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

P = TypeVar("P")


class Reader:
    """A place in the answer."""

    def __init__(self) -> None:
        self.given_up = False
        self.expired = False  # its time is over; who owns the clock says so
        self.parts = 0  # read
        self.bytes = 0  # of these parts


class Replay(Generic[P]):
    def __init__(self, limit: int) -> None:
        self.readers: set[Reader] = set()
        self._limit = limit  # bytes
        self._parts: deque[tuple[P, int]] = deque()  # with the bytes of the answer up to the part's end
        self._first = 0  # the index of the first part that is still held
        self._bytes = 0  # of the answer so far
        self._bytes_let_go = 0

    @property
    def is_whole(self) -> bool:
        """Is everything held that came so far? If not, nobody may join, and the answer cannot be kept."""
        return self._bytes <= self._limit

    @property
    def bytes_held(self) -> int:
        return self._bytes - self._bytes_let_go

    def whole(self) -> list[P]:
        return [part for part, _ in self._parts]

    def join(self) -> Reader:
        assert self.is_whole, "the beginning has gone"
        reader = Reader()
        self.readers.add(reader)
        return reader

    def leave(self, reader: Reader) -> None:
        self.readers.discard(reader)
        self._let_go()

    def add(self, part: P, size: int) -> None:
        """Take a part of ``size`` bytes in, after it was seen that :meth:`must_wait` says no."""
        if not self.is_whole:
            self._give_up_the_late()
        self._bytes += size
        self._parts.append((part, self._bytes))
        self._let_go()

    def must_wait(self) -> bool:
        """Is even the reader that is furthest so far behind that the next part must wait for it?"""
        return not self.is_whole and bool(self.readers) and all(map(self._is_late, self.readers))

    def next(self, reader: Reader) -> P | None:
        """The next part for this reader, if it is there."""
        at = reader.parts - self._first
        if reader.given_up or at >= len(self._parts):
            return None
        part, end = self._parts[at]
        was_first = at == 0
        reader.parts, reader.bytes = reader.parts + 1, end
        if was_first:
            self._let_go()
        return part

    def check_integrity(self) -> None:
        """What always holds; for tests."""
        assert all(self._first <= reader.parts <= self._first + len(self._parts) for reader in self.readers)
        assert self._first == 0 or not self.is_whole
        if self._parts:
            assert self._parts[-1][1] == self._bytes

    def _give_up_the_late(self) -> None:
        late = {reader for reader in self.readers if self._is_late(reader)}
        for reader in late:
            reader.given_up = True
        self.readers -= late

    def _is_late(self, reader: Reader) -> bool:
        return self._bytes - reader.bytes > self._limit

    def _let_go(self) -> None:
        if self.is_whole:
            return
        furthest_back = min((reader.parts for reader in self.readers), default=self._first + len(self._parts))
        while self._first < furthest_back:
            _, self._bytes_let_go = self._parts.popleft()
            self._first += 1
