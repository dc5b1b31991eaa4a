"""Passive health: what the requests themselves say about a worker.

Failures in a row eject a worker for a while, and for longer each time. Then one request, the trial, may go there: if
it succeeds the worker is as good as new, if it fails the worker is ejected again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from shoal.types import WorkerId


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


@dataclass(slots=True)
class _Record:
    failures: int = 0  # in a row
    ejections: int = 0  # in a row
    ejected_until: float | None = None  # None: not ejected
    on_trial: bool = True  # once its time is over, one request shows whether it is well
    trial: Attempt | None = None
    lost: bool = False  # was its connection lost since its last success?


class Health:
    """Only workers that have failed since their last success are remembered."""

    _REMEMBERED: Final = 4096  # workers

    def __init__(self, limits: HealthLimits | None = None) -> None:
        self._limits = limits or HealthLimits()
        self._records: dict[WorkerId, _Record] = {}

    def __len__(self) -> int:
        return len(self._records)

    def available(self, worker_id: WorkerId, now: float) -> bool:
        """May a request go there? ``now`` is in seconds on any clock that does not go back."""
        record = self._records.get(worker_id)
        if record is None or record.ejected_until is None:
            return True
        return now >= record.ejected_until and (record.trial is None or not record.on_trial)

    def answers(self, worker_id: WorkerId) -> bool:
        """Is it there, whether or not it is ejected for what it answered?"""
        record = self._records.get(worker_id)
        return record is None or not record.lost

    def begin(self, worker_id: WorkerId, now: float) -> Attempt:
        """A request is sent. Whoever sends it must :meth:`end` it, however it ends."""
        attempt = Attempt(worker_id)
        record = self._records.get(worker_id)
        if record is not None and record.ejected_until is not None and self.available(worker_id, now):
            if record.on_trial:
                record.trial = attempt
            else:
                record.ejected_until = None
        return attempt

    def end(self, attempt: Attempt, outcome: Outcome, now: float) -> None:
        """Ending twice is fine: success with the first part of an answer, and then how the rest went."""
        record = self._records.get(attempt.worker_id)
        is_trial = record is not None and record.trial is attempt
        if record is not None and record.ejected_until is not None and not is_trial:
            return  # sent before the ejection: it says how the worker was then
        if outcome is Outcome.SUCCESS:
            self._records.pop(attempt.worker_id, None)
        elif outcome is Outcome.FAILURE:
            record = record or self._remember(attempt.worker_id)
            record.failures += 1
            if is_trial or record.failures >= self._limits.failures:
                self._eject(record, now)
        elif record is not None:
            record.trial = None

    def connection_lost(self, worker_id: WorkerId, now: float) -> None:
        """Ejects at once; how the requests that were on the connection end does not matter any more.

        Whoever registers again has shown that it lives: when the time is over everybody may go there. A trial would
        turn all others away, and a coordinator without requests would wait for one for ever.
        """
        record = self._remember(worker_id)
        record.lost = True
        if self.available(worker_id, now) or record.trial is not None:
            self._eject(record, now, on_trial=False)

    def forget(self, worker_id: WorkerId) -> None:
        """The worker will not come back."""
        self._records.pop(worker_id, None)

    def _eject(self, record: _Record, now: float, *, on_trial: bool = True) -> None:
        before = record.ejected_until
        if before is not None and not record.on_trial and now > before + self._limits.longest_ejection:
            record.ejections = 0  # it has been well since, though nobody asked it
        record.on_trial = on_trial
        record.ejections += 1
        record.ejected_until = now + self._limits.ejection(record.ejections)
        record.trial = None

    def _remember(self, worker_id: WorkerId) -> _Record:
        if worker_id not in self._records and len(self._records) >= self._REMEMBERED:
            del self._records[next(iter(self._records))]
        return self._records.setdefault(worker_id, _Record())
