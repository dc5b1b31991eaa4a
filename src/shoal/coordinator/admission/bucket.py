"""A token bucket: a rate with bursts (J. Turner, "New directions in communications", IEEE Communications 24, 1986)."""

from __future__ import annotations


class Bucket:
    """``rate`` a second, ``size`` at once. Times in seconds."""

    def __init__(self, rate: float, size: float, now: float) -> None:
        self._rate = rate
        self._size = size
        self._level = size
        self._at = now

    def wait(self, amount: float, now: float) -> float:
        """Seconds until there is so much; 0: now. More than the bucket holds is let through when it is full, and the
        next ones wait for it, so that no request is too large for ever."""
        missing = min(amount, self._size) - self._filled(now)
        return max(0.0, missing / self._rate)

    def take(self, amount: float, now: float) -> None:
        """Also more than there is, and less than nothing, when it shows later what a request really took."""
        self._level = min(self._size, self._filled(now) - amount)
        self._at = now

    def is_full(self, now: float) -> bool:
        return self._filled(now) >= self._size

    def _filled(self, now: float) -> float:
        return min(self._size, self._level + (now - self._at) * self._rate)
