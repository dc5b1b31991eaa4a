"""Who wants to know what became of each batch."""

from __future__ import annotations

from typing import Final, Protocol

from shoal.batcher.policy import Release


class BatchObserver(Protocol):
    def batch_released(self, model: str, reason: Release, rows: int, requests: int, waited: float, ran: float) -> None:
        """A batch has run, well or not. ``waited``: how long the first to come had, in seconds; ``ran``: the run."""


class _Nobody:
    def batch_released(self, model: str, reason: Release, rows: int, requests: int, waited: float, ran: float) -> None:
        return None


NO_OBSERVER: Final = _Nobody()
