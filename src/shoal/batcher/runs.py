"""The runs that have not ended, and the engine's time that they share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shoal.batcher.cost import Cost
from shoal.batcher.entry import Entry
from shoal.batcher.policy import Running


class EngineTime:
    """Seconds of the engine's work: runs at once share it evenly, so each has less of it than time passes."""

    def __init__(self) -> None:
        self._runs = 0
        self._each = 0.0  # seconds that a run would have had which runs all the time
        self._at = 0.0

    def read(self, now: float) -> float:
        """The work of a run is the difference between its end and its beginning."""
        if self._runs:
            self._each += (now - self._at) / self._runs
        self._at = now
        return self._each

    def begin(self, now: float) -> float:
        began = self.read(now)
        self._runs += 1
        return began

    def end(self, now: float) -> float:
        ended = self.read(now)
        self._runs -= 1
        return ended


@dataclass(frozen=True, eq=False, slots=True)
class Run:
    entries: Sequence[Entry]
    began: float  # in the engine's time

    @property
    def rows(self) -> int:
        return sum(entry.rows for entry in self.entries)


class Runs:
    """No more than ``at_once``."""

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self.engine_time = EngineTime()
        self._runs: list[Run] = []

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def full(self) -> bool:
        return len(self._runs) >= self.at_once

    @property
    def entries(self) -> Iterator[Entry]:
        return (entry for run in self._runs for entry in run.entries)

    def add(self, entries: Sequence[Entry], now: float) -> Run:
        run = Run(entries, self.engine_time.read(now))
        self._runs.append(run)
        return run

    def remove(self, run: Run) -> None:
        self._runs.remove(run)

    def running(self, cost: Cost | None, now: float) -> Running:
        """Of one run or more."""
        last = self._runs[-1]
        share = 0.0 if cost is None else cost.of(last.rows) / self.at_once
        left = share - (self.engine_time.read(now) - last.began)
        return Running(sum(run.rows for run in self._runs), now + left * len(self._runs))
