"""The response cache in this process's memory: least recently used out first, and nothing beyond its time."""

from __future__ import annotations

import heapq
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from shoal.kvstore.store import Found, Key, check_ttl

_ENTRY_OVERHEAD: Final = 336  # bytes of an entry beside key and value, measured: the objects and tables that hold it
_HEAP_SLACK: Final = 64  # outdated items tolerated in the heap, beyond one for each entry


@dataclass(slots=True)
class Stats:
    hits: int = 0
    misses: int = 0
    evictions: int = 0  # live entries that had to make room
    expirations: int = 0


#: Value, size in bytes, serial number (tells it from an earlier entry of its key), and when it expires on the clock.
#: Plain tuples of plain values: the garbage collector soon leaves them alone, however many there are.
_Entry = tuple[bytes, int, int, float | None]


class MemoryStore:
    """Bounded in entries and in bytes, keys and bookkeeping included. For one thread.

    ``clock`` returns seconds. An entry that has expired is dropped when it is asked for, and before any live entry
    when room is needed.
    """

    def __init__(self, *, max_entries: int, max_bytes: int, clock: Callable[[], float]) -> None:
        self.stats = Stats()
        self.bytes_used = 0
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._clock = clock
        self._serial = 0
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()  # least recently used first
        self._expiries: list[tuple[float, int, Key]] = []  # a heap; items of entries that have gone are skipped

    def __len__(self) -> int:
        """Entries held, expired ones that nobody has noticed included."""
        return len(self._entries)

    def get(self, key: Key) -> Found | None:
        entry = self._live(key)
        if entry is None:
            self.stats.misses += 1
            return None
        self.stats.hits += 1
        self._entries.move_to_end(key)
        value, _, _, expires = entry
        return Found(value, None if expires is None else expires - self._clock())

    def exists(self, key: Key) -> bool:
        return self._live(key) is not None

    def set(self, key: Key, value: bytes, *, ttl: float | None = None) -> bool:
        check_ttl(ttl)
        if key in self._entries:
            self.delete(key)
        size = sys.getsizeof(key) + sys.getsizeof(value) + _ENTRY_OVERHEAD
        if size > self._max_bytes or self._max_entries < 1:
            return False
        self._make_room(size)
        self._serial += 1
        expires = None if ttl is None else self._clock() + ttl
        self._entries[key] = (value, size, self._serial, expires)
        self.bytes_used += size
        if expires is not None:
            heapq.heappush(self._expiries, (expires, self._serial, key))
        return True

    def delete(self, key: Key) -> bool:
        if self._live(key) is None:
            return False
        self._drop(key)
        return True

    def clear(self, prefix: bytes = b"") -> int:
        doomed = [key for key in self._entries if key.startswith(prefix)]
        for key in doomed:
            self._drop(key)
        return len(doomed)

    def check_integrity(self) -> None:
        """What always holds; for tests and for idle moments."""
        assert self.bytes_used == sum(size for _, size, _, _ in self._entries.values()) <= self._max_bytes
        assert len(self._entries) <= self._max_entries
        scheduled = {(serial, key) for _, serial, key in self._expiries}
        ends = [(serial, key) for key, (_, _, serial, expires) in self._entries.items() if expires is not None]
        assert scheduled.issuperset(ends)
        assert len(self._expiries) <= 2 * len(self._entries) + _HEAP_SLACK

    def _live(self, key: Key) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is None or entry[3] is None or self._clock() < entry[3]:
            return entry
        self._drop(key)
        self.stats.expirations += 1
        return None

    def _make_room(self, size: int) -> None:
        while self._entries and (len(self._entries) >= self._max_entries or self.bytes_used + size > self._max_bytes):
            if not self._drop_one_expired():
                self._drop(next(iter(self._entries)))
                self.stats.evictions += 1

    def _drop_one_expired(self) -> bool:
        now = self._clock()
        while self._expiries and self._expiries[0][0] <= now:
            _, serial, key = heapq.heappop(self._expiries)
            entry = self._entries.get(key)
            if entry is not None and entry[2] == serial:
                self._drop(key)
                self.stats.expirations += 1
                return True
        return False

    def _drop(self, key: Key) -> None:
        self.bytes_used -= self._entries.pop(key)[1]
        if len(self._expiries) > 2 * len(self._entries) + _HEAP_SLACK:
            self._rebuild_heap()

    def _rebuild_heap(self) -> None:
        """Half of the heap or more speaks of entries that have gone, so this costs little for each of them."""
        self._expiries = [
            (expires, serial, key) for key, (_, _, serial, expires) in self._entries.items() if expires is not None
        ]
        heapq.heapify(self._expiries)
