"""Who wants to know what became of each batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from shoal.batcher.entry import Entry
from shoal.batcher.policy import Release
from shoal.clock import now
from shoal.telemetry.tracing import Value, record


class BatchObserver(Protocol):
    def batch_released(self, model: str, reason: Release, rows: int, requests: int, waited: float, ran: float) -> None:
        """A batch has run, well or not. ``waited``: how long the first to come had, in seconds; ``ran``: the run."""


class _Nobody:
    def batch_released(self, model: str, reason: Release, rows: int, requests: int, waited: float, ran: float) -> None:
        return None


NO_OBSERVER: Final = _Nobody()


def record_spans(entries: Sequence[Entry], began: float, ran: float, reason: Release) -> None:
    """Of each request: its wait, and the run, which names the requests it was shared with."""
    traces = [entry.trace for entry in entries if entry.trace]
    if not traces:
        return
    at = now()
    for entry in entries:
        others = [trace for trace in traces if trace != entry.trace]
        attributes: dict[str, Value] = {
            "shoal.batch.release": reason,
            "shoal.batch.requests": len(entries),
            "shoal.batch.rows": entry.rows,
        }
        record("queue", entry.trace, entry.arrived, began, now=at)
        record("batch", entry.trace, began, began + ran, now=at, links=others, attributes=attributes)
