"""When to ask a second worker for the answer that a first one is slow with, and take whichever comes first.

After Dean and Barroso, *The Tail at Scale* (2013): a second request once the first has waited longer than most do costs
little and takes off the tail. The share of such requests is bounded, so that a slow fleet is not asked twice for all.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from typing import Final

from shoal.load_balancer.budget import RetryBudget

_KEPT: Final = 200  # of the last waits
_LEAST: Final = 20  # known waits, to say what most of them are
_LONGER: Final = 1.1  # than the quantile: where all take the same time, none is late
_RESERVE: Final = 2.0  # second requests at once, whatever came before


class Hedging:
    """Of one model. ``quantile``: of what workers take to answer; ``share``: of all requests."""

    def __init__(self, quantile: float, share: float) -> None:
        self._quantile = quantile
        self._budget = RetryBudget(share, _RESERVE)
        self._waits: deque[float] = deque()  # seconds, the oldest first
        self._ordered: list[float] = []  # the same

    def observe(self, seconds: float) -> None:
        """A worker answered after so many seconds."""
        if len(self._waits) >= _KEPT:
            del self._ordered[bisect_left(self._ordered, self._waits.popleft())]
        self._waits.append(seconds)
        insort(self._ordered, seconds)

    def begin(self) -> float | None:
        """A request is sent. Returns the seconds to wait until another worker may be asked; None: not at all."""
        self._budget.deposit()
        if len(self._ordered) < _LEAST:
            return None
        return _LONGER * self._ordered[min(int(len(self._ordered) * self._quantile), len(self._ordered) - 1)]

    def may_ask_again(self) -> bool:
        """So much time has passed: is a second request within the share?"""
        return self._budget.withdraw()
