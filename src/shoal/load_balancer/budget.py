"""How many requests may be tried again: a share of those that come in, so that retries never are the load.

When everything fails, every request would otherwise be sent three times, to workers that fail because they have too
much to do. The idea is Finagle's retry budget.
"""

from __future__ import annotations

from typing import Final

_SHARE: Final = 0.2  # of the requests
_RESERVE: Final = 256.0  # retries: what a worker that dies leaves behind may all be tried again


class RetryBudget:
    def __init__(self, share: float = _SHARE, reserve: float = _RESERVE) -> None:
        self._share = share
        self._reserve = reserve
        self._left = reserve

    def deposit(self) -> None:
        """A request has come."""
        self._left = min(self._reserve, self._left + self._share)

    def withdraw(self) -> bool:
        """May a request be tried again? Takes one retry if so."""
        if self._left < 1:
            return False
        self._left -= 1
        return True
