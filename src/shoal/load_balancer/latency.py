"""How long a replica takes to answer, as seen from here."""

from __future__ import annotations

import math
from typing import Final

DECAY: Final = 10.0  # seconds until what was observed has lost two thirds of its weight


class PeakEwma:
    """A moving average that rises at once and falls with time: a replica that has just been slow is avoided now, and
    one that nobody asks is forgiven. From Finagle (``com.twitter.finagle.loadbalancer.PeakEwma``)."""

    __slots__ = ("_at", "_seconds")

    def __init__(self) -> None:
        self._seconds = 0.0
        self._at: float | None = None  # when it was last observed

    @property
    def is_known(self) -> bool:
        return self._at is not None

    def observe(self, seconds: float, now: float) -> None:
        if self._at is None or seconds >= self._seconds:
            self._seconds = seconds
        else:
            kept = math.exp(min(0.0, self._at - now) / DECAY)
            self._seconds = self._seconds * kept + seconds * (1 - kept)
        self._at = now

    def waited(self, seconds: float, now: float) -> None:
        """Nothing came in so many seconds: it is as slow as that at least. It tells nothing where nothing is known."""
        if self._at is not None and seconds > self._seconds:
            self.observe(seconds, now)

    def seconds(self, now: float) -> float:
        """What to expect; 0 while nothing is known."""
        return 0.0 if self._at is None else self._seconds * math.exp(min(0.0, self._at - now) / DECAY)
