"""What became of a request when, for its trace; and of each step, for the metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from shoal.clock import now
from shoal.telemetry.tracing import record
from shoal.worker.generation.sequence import TokenSequence


class StepObserver(Protocol):
    def stepped(self, rows: int, tokens: int, seconds: float) -> None:
        """The engine has computed a step of so many sequences and tokens."""

    def preempted(self, reasons: Mapping[str, int], recomputed: int, parked: int) -> None:
        """So many sequences were parked since the last time, by why; so many tokens of those let in again are computed
        anew; so many are parked now."""

    def withdrawn(self) -> None:
        """A client has left before its answer was complete."""

    def wasted(self, rows: int) -> None:
        """A step had so many rows of sequences that nobody wanted any more when it ended."""


class _Nobody:
    def stepped(self, rows: int, tokens: int, seconds: float) -> None:
        return None

    def preempted(self, reasons: Mapping[str, int], recomputed: int, parked: int) -> None:
        return None

    def withdrawn(self) -> None:
        return None

    def wasted(self, rows: int) -> None:
        return None


NO_OBSERVER: Final = _Nobody()


class Progress:
    """Times on the loop's clock, in the order in which they come; what did not come to pass is 0."""

    __slots__ = ("_trace", "arrived", "begun", "first", "prepared")

    def __init__(self, trace: str, arrived: float) -> None:
        self._trace = trace
        self.arrived = arrived
        self.prepared = 0.0  # it has tokens
        self.begun = 0.0  # a step works on it
        self.first = 0.0  # its first token has come

    def spoke(self) -> None:
        self.first = self.first or now()

    def ended(self, sequence: TokenSequence) -> None:
        """Tell the trace: a span for every stage that it came to."""
        if not self._trace:
            return
        at = now()
        stages: tuple[tuple[str, float, float, dict[str, int]], ...] = (
            ("prepare", self.arrived, self.prepared, {"shoal.prompt_tokens": len(sequence.prompt)}),
            ("queue", self.prepared, self.begun, {}),
            ("prefill", self.begun, self.first, {"shoal.cached_tokens": sequence.cached or 0}),
            ("decode", self.first, at, {"shoal.output_tokens": len(sequence.output)}),
        )
        for name, began, ended, attributes in stages:
            if began:
                record(name, self._trace, began, ended or at, now=at, attributes=attributes)
            if not ended:
                return
