"""How much of its share a replica gets, for what was seen of it: a straggler and a worker that comes and goes get less,
step by step, and win it back the same way. Nobody loses all of it, for who gets nothing cannot show that it is well."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median_low
from typing import Final

LEAST: Final = 0.1  # of its share, that is left to whoever has the worst standing
RECOVERY: Final = 30.0  # seconds from nothing to all of it
SLOWER: Final = 2.0  # times the median of its peers: beyond it a replica is a straggler
_FALL: Final = 5.0  # seconds from all of it to nothing
_SMOOTHING: Final = 0.2  # weight of the newest answer in the mean
_SEEN: Final = 5  # answers of late, to be judged by them
_MEMORY: Final = 10.0  # seconds that are "of late", about


class Reliability:
    """Of a worker that comes and goes: each loss halves its standing, and quiet time restores it."""

    __slots__ = ("_at", "_value")

    def __init__(self) -> None:
        self._value = 1.0
        self._at = 0.0  # when that was

    def lost(self, now: float) -> None:
        self._value, self._at = max(LEAST, self.at(now) / 2), now

    def at(self, now: float) -> float:
        return min(1.0, self._value + (now - self._at) / RECOVERY)


class Pace:
    """Of a replica that may be slower than its peers: moves towards what its answers say, a little each second."""

    __slots__ = ("_mean", "_seen", "value")

    def __init__(self) -> None:
        self.value = 1.0
        self._mean = 0.0  # seconds of an answer, of late
        self._seen = 0.0  # answers of late

    def observe(self, seconds: float) -> None:
        self._mean += (seconds - self._mean) * (_SMOOTHING if self._mean else 1.0)
        self._seen += 1

    @property
    def seconds(self) -> float | None:
        """The mean of its answers; None where there were too few of late."""
        return self._mean if self._seen >= _SEEN else None

    def weigh(self, usual: float | None, elapsed: float) -> bool:
        """``usual``: seconds of an answer among its peers, if that is known. Returns whether its standing changed."""
        deserved = 1.0
        if usual and self.seconds is not None and self.seconds > SLOWER * usual:
            deserved = max(LEAST, usual / self.seconds)
        before = self.value
        self.value = min(max(deserved, before - elapsed / _FALL), before + elapsed / RECOVERY)
        self._seen *= max(0.0, 1.0 - elapsed / _MEMORY)
        return self.value != before


def usual_seconds(paces: Sequence[Pace]) -> float | None:
    """The median of those that have answered of late; None for a single one, which has nobody to be compared with.

    Of two it is the faster one.
    """
    known = [seconds for pace in paces if (seconds := pace.seconds) is not None]
    return median_low(known) if len(known) > 1 else None
