"""How fast requests leave, measured while somebody asks."""

from __future__ import annotations

from typing import Final

RETRY_AFTER: Final = 1.0  # seconds, before it is known how fast requests leave, and at least
LONGEST_RETRY_AFTER: Final = 60.0  # seconds
_WINDOW: Final = 0.25  # seconds of a measurement at least,
_ENOUGH: Final = 16  # departures that make it good enough,
_LONG_ENOUGH: Final = 10.0  # seconds after which fewer do
_STALE: Final = 5.0  # seconds without a question: the time between says nothing of a server that is busy
_WEIGHT: Final = 0.4  # of a new measurement


class Drain:
    """Who leaves is only counted; nothing is computed before somebody has to know. Times in seconds."""

    def __init__(self) -> None:
        self._rate: float | None = None
        self._amount = 0.0  # that has left since the last measurement
        self._left = 0
        self._since = float("-inf")
        self._asked = float("-inf")

    def left(self, amount: float) -> None:
        """A request has ended, so much of the whole with it."""
        self._amount += amount
        self._left += 1

    def per_second(self, now: float) -> float | None:
        """To be asked again and again while there is a queue. None: not known yet."""
        if now - self._asked > _STALE:
            self._begin(now)
        self._asked = now
        elapsed = now - self._since
        if elapsed >= _LONG_ENOUGH or (elapsed >= _WINDOW and self._left >= _ENOUGH):
            measured = self._amount / elapsed
            self._rate = measured if self._rate is None else self._rate + _WEIGHT * (measured - self._rate)
            self._begin(now)
        return self._rate

    def seconds_for(self, amount: float, now: float) -> float:
        """Until so much has left, as advice to come back then."""
        rate = self.per_second(now)
        if rate is None:
            return RETRY_AFTER
        return min(LONGEST_RETRY_AFTER, max(RETRY_AFTER, amount / rate if rate else LONGEST_RETRY_AFTER))

    def _begin(self, now: float) -> None:
        self._since, self._amount, self._left = now, 0.0, 0
