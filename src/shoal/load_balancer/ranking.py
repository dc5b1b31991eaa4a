"""Replicas in the order of a key that changes."""

from __future__ import annotations

from collections.abc import Container
from heapq import heapify, heappop, heappush
from typing import Final, TypeAlias

from shoal.load_balancer.replica import Replica
from shoal.types import WorkerId

Key: TypeAlias = tuple[float, ...]

_SLACK: Final = 64  # entries that may be outdated in a small heap


class Ranking:
    """A heap. A new key is a new entry in O(log n); the old entry stays until it comes up, or until outdated ones are
    the greater part. Equal keys come in the order in which they were put."""

    def __init__(self) -> None:
        self._heap: list[tuple[Key, int, Replica]] = []
        self._current: dict[Replica, int] = {}  # the number of the entry that counts
        self._number = 0

    def __contains__(self, replica: Replica) -> bool:
        return replica in self._current

    def put(self, replica: Replica, key: Key) -> None:
        self._number += 1
        self._current[replica] = self._number
        heappush(self._heap, (key, self._number, replica))
        if len(self._heap) > 4 * len(self._current) + _SLACK:
            self._heap = [entry for entry in self._heap if self._current.get(entry[2]) == entry[1]]
            heapify(self._heap)

    def discard(self, replica: Replica) -> None:
        self._current.pop(replica, None)

    def only(self) -> Replica | None:
        """The one that is there, if no other is."""
        return next(iter(self._current)) if len(self._current) == 1 else None

    def first(self, excluded: Container[WorkerId]) -> Replica | None:
        """The one with the least key whose worker is not excluded."""
        aside = []
        found = None
        while self._heap and found is None:
            entry = self._heap[0]
            if self._current.get(entry[2]) != entry[1]:
                heappop(self._heap)
            elif entry[2].worker_id in excluded:
                aside.append(heappop(self._heap))
            else:
                found = entry[2]
        for entry in aside:
            heappush(self._heap, entry)
        return found
