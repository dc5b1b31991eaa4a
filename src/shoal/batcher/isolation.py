"""After a batch has failed: is it worth a try to run its entries apart?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from shoal.errors import ModelUnavailable, ShoalError, WorkerLost

E = TypeVar("E")

SPARE_FAILURES = 3  # runs that may fail in a row beyond those that lead down to one bad entry
PATIENCE = 5.0  # seconds of such runs, within which every entry is tried alone before any is given up


class Isolation:
    """Halving finds one bad entry of ``entries`` in at most ``2 · log2(entries)`` runs, and however many are bad, it
    ends after ``2 · entries``. Several bad ones side by side look like an engine that fails whatever it gets. That one
    is given up after a few more than ``log2(entries)`` failures in a row, but not before they took ``PATIENCE``: where
    failing is quick, every entry is tried alone."""

    def __init__(self, entries: int) -> None:
        self._allowed = entries.bit_length() + SPARE_FAILURES
        self._failures = 0  # in a row
        self._lost = 0.0  # seconds that these took
        self._gone = False

    def succeeded(self) -> None:
        self._failures, self._lost = 0, 0.0

    def failed(self, error: Exception, ran: float) -> None:
        """``ran``: seconds until it failed."""
        if _nobody_there(error):
            self._gone = True
        elif getattr(error, "fault", "server") != "client":  # an engine that refuses is alive
            self._failures += 1
            self._lost += ran

    @property
    def hopeless(self) -> bool:
        return self._gone or (self._failures >= self._allowed and self._lost >= PATIENCE)


def halves(entries: Sequence[E]) -> list[Sequence[E]]:
    middle = (len(entries) + 1) // 2
    return [half for half in (entries[:middle], entries[middle:]) if half]


def _nobody_there(error: Exception) -> bool:
    """Is the engine's process away? Everyone would get the same answer."""
    return isinstance(error, WorkerLost | ModelUnavailable) or isinstance(error.__cause__, WorkerLost)


def own_copy(error: Exception) -> Exception:
    """For one of several who get the same error: raised twice, an exception would carry both their tracebacks."""
    if not isinstance(error, ShoalError):
        return error
    copy = type(error)(error.message, param=error.param, retry_after=error.retry_after)
    copy.__cause__ = error.__cause__
    return copy
