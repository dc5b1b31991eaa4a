"""What one native connection may have of the places, so that no single one takes all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from shoal.coordinator.admission.drain import RETRY_AFTER
from shoal.errors import Overloaded


class Shares:
    """``limit``: requests of one peer at a time."""

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
