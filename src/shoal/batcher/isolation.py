"""After a batch has failed: is it worth a try to run its entries apart?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from shoal.errors import ModelUnavailable, ShoalError, WorkerLost

E = TypeVar("E")

SPARE_FAILURES = 3  # runs that may fail in a row beyond those that lead down to one bad entry


class Isolation:
    """Halving finds one bad entry of ``entries`` in at most ``2 · log2(entries)`` runs. An engine that fails whatever
    it gets is given up after a few more than ``log2(entries)``."""

    def __init__(self, entries: int) -> None:
        self._allowed = entries.bit_length() + SPARE_FAILURES
        self._failures = 0  # in a row
        self._gone = False

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self, error: Exception) -> None:
        if _nobody_there(error):
            self._gone = True
        elif getattr(error, "fault", "server") != "client":  # an engine that refuses is alive
            self._failures += 1

    @property
    def hopeless(self) -> bool:
        return self._gone or self._failures >= self._allowed


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
