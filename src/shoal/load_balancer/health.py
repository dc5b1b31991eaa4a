"""Passive health: what the requests themselves say about a worker.

Failures in a row eject a worker for a while, and for longer each time. Then one request, the trial, may go there: if
it succeeds the worker is as good as new, if it fails the worker is ejected again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from shoal.types import ModelPart, WorkerId


class Outcome(StrEnum):
    SUCCESS = "success"  # also when the worker answered that the request was wrong
    FAILURE = "failure"
    ABANDONED = "abandoned"  # cancelled, or ended already: it says nothing about the worker


@dataclass(frozen=True, slots=True)
class HealthLimits:
    failures: int = 3  # in a row, until a worker is ejected
    first_ejection: float = 0.5  # seconds; doubled with each one that follows
    longest_ejection: float = 30.0  # seconds

    def ejection(self, count: int) -> float:
        """Seconds that ejection number ``count`` lasts, from 1."""
        # The exponent is bounded because a float is not: 2.0 ** 1024 raises.
        return min(self.longest_ejection, self.first_ejection * 2.0 ** min(count - 1, 64))


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """One request on its way to a worker, returned by :meth:`Health.begin`."""

    worker_id: WorkerId
    part: ModelPart | None


@dataclass(slots=True)
class _Record:
    failures: int = 0  # in a row
    ejections: int = 0  # in a row
    ejected_until: float | None = None  # None: not ejected
    trial: Attempt | None = None

    def available(self, now: float) -> bool:
        return self.ejected_until is None or (now >= self.ejected_until and self.trial is None)


class Health:
    """Of each worker, which may lose its connection, and of each model on it, which may fail: one that is broken there
    does not take the worker from the others. ``part`` is that model, or a shard of it.

    Only what has failed since its last success is remembered. ``now`` is in seconds on any clock that does not go back.
    """

    _REMEMBERED: Final = 4096  # records

    def __init__(self, limits: HealthLimits | None = None) -> None:
        self._limits = limits or HealthLimits()
        self._records: dict[tuple[WorkerId, ModelPart | None], _Record] = {}

    def __len__(self) -> int:
        return len(self._records)

    def available(self, worker_id: WorkerId, part: ModelPart | None, now: float) -> bool:
        """May a request go there?"""
        return not self._records or all(record.available(now) for _, record in self._known(worker_id, part))

    def answers(self, worker_id: WorkerId) -> bool:
        """Is it there, whether or not a model of it is ejected for what it answered?"""
        return (worker_id, None) not in self._records

    def begin(self, worker_id: WorkerId, part: ModelPart | None, now: float) -> Attempt:
        """A request is sent. Whoever sends it must :meth:`end` it, however it ends."""
        attempt = Attempt(worker_id, part)
        if self._records and self.available(worker_id, part, now):
            for _, record in self._known(worker_id, part):
                if record.ejected_until is not None:
                    record.trial = attempt
        return attempt

    def end(self, attempt: Attempt, outcome: Outcome, now: float) -> None:
        """Ending twice is fine: success with the first part of an answer, and then how the rest went."""
        known = self._known(attempt.worker_id, attempt.part) if self._records else []
        if any(record.ejected_until is not None and record.trial is not attempt for _, record in known):
            return  # sent before the ejection: it says how the worker was then
        for key, record in known:
            record.trial = None
            if outcome is Outcome.SUCCESS:
                del self._records[key]
            elif outcome is Outcome.FAILURE and record.ejected_until is not None:
                self._eject(record, now)
        if outcome is Outcome.FAILURE:
            record = self._remember(attempt.worker_id, attempt.part)
            record.failures += 1
            if record.failures >= self._limits.failures and record.available(now):
                self._eject(record, now)

    def connection_lost(self, worker_id: WorkerId, now: float) -> None:
        """Ejects at once; how the requests that were on the connection end does not matter any more."""
        record = self._remember(worker_id, None)
        if record.available(now) or record.trial is not None:
            self._eject(record, now)

    def _known(
        self, worker_id: WorkerId, part: ModelPart | None
    ) -> list[tuple[tuple[WorkerId, ModelPart | None], _Record]]:
        keys = ((worker_id, None), (worker_id, part))[: 1 if part is None else 2]
        return [(key, record) for key in keys if (record := self._records.get(key)) is not None]

    def _eject(self, record: _Record, now: float) -> None:
        record.ejections += 1
        record.ejected_until = now + self._limits.ejection(record.ejections)
        record.trial = None

    def _remember(self, worker_id: WorkerId, part: ModelPart | None) -> _Record:
        key = (worker_id, part)
        if key not in self._records and len(self._records) >= self._REMEMBERED:
            del self._records[next(iter(self._records))]
        return self._records.setdefault(key, _Record())
