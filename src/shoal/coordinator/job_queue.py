"""The order in which jobs begin: the most urgent first, and among equals the first that came."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class JobQueue(Generic[T]):
    def __init__(self) -> None:
        self._waiting: dict[int, dict[str, T]] = {}  # of each priority, in the order of their coming

    def put(self, key: str, priority: int, item: T) -> None:
        self._waiting.setdefault(priority, {})[key] = item

    def take(self) -> T | None:
        if not self._waiting:
            return None
        priority = max(self._waiting)
        key = next(iter(self._waiting[priority]))
        return self.remove(key, priority)

    def remove(self, key: str, priority: int) -> T | None:
        """Take it out of its turn; None when it does not wait."""
        peers = self._waiting.get(priority, {})
        item = peers.pop(key, None)
        if not peers:
            self._waiting.pop(priority, None)
        return item
