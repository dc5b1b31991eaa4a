"""Passive health: what the requests themselves say about a worker.

Failures in a row eject a model on a worker for a while, and for longer each time. Then one request, the trial, may go
there: if it succeeds all is as good as new, if it fails the model is ejected there again. A lost connection ejects the
worker with all of its models.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

from shoal.types import ModelPart, WorkerId

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


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


@dataclass(slots=True, eq=False)
class Attempt:
    """One request on its way to a worker, returned by :meth:`Health.begin`."""

    worker_id: WorkerId
    part: ModelPart
    began: float


@dataclass(slots=True)
class _Failures:
    """Of one model on one worker."""

    count: int = 0  # in a row
    ejections: int = 0  # in a row
    ejected_until: float | None = None  # None: not ejected
    trial: Attempt | None = None

    def available(self, now: float) -> bool:
        return self.ejected_until is None or (now >= self.ejected_until and self.trial is None)


@dataclass(slots=True)
class _Losses:
    """Of a worker's connection. Whoever registers again has shown that it lives, so it needs no trial, which would turn
    all others away: when the time is over everybody may go there."""

    count: int = 0  # in a row
    until: float = 0.0


class Health:
    """Of each worker, which may lose its connection, and of each model on it, which may fail: one that is broken there
    does not take the worker from the others. ``part`` is that model, or a shard of it.

    Only what has failed since its last success is remembered. ``now`` is in seconds on any clock that does not go back.
    """

    _REMEMBERED: Final = 4096  # workers, and as many models on them

    def __init__(self, limits: HealthLimits | None = None) -> None:
        self._limits = limits or HealthLimits()
        self._losses: dict[WorkerId, _Losses] = {}
        self._failures: dict[tuple[WorkerId, ModelPart], _Failures] = {}

    def __len__(self) -> int:
        return len(self._losses) + len(self._failures)

    def available(self, worker_id: WorkerId, part: ModelPart, now: float) -> bool:
        """May a request go there?"""
        failures = self._failures.get((worker_id, part)) if self._failures else None
        return self.is_back(worker_id, now) and (failures is None or failures.available(now))

    def is_back(self, worker_id: WorkerId, now: float) -> bool:
        """Is the time over that it is left alone after its connection was lost? Its models may be ejected still."""
        losses = self._losses.get(worker_id) if self._losses else None
        return losses is None or now >= losses.until

    def begin(self, worker_id: WorkerId, part: ModelPart, now: float) -> Attempt:
        """A request is sent. Whoever sends it must :meth:`end` it, however it ends."""
        attempt = Attempt(worker_id, part, now)
        failures = self._failures.get((worker_id, part)) if self._failures else None
        if failures is not None and failures.ejected_until is not None and failures.available(now):
            failures.trial = attempt
        return attempt

    def end(self, attempt: Attempt, outcome: Outcome, now: float) -> None:
        """Ending twice is fine: success with the first part of an answer, and then how the rest went."""
        if outcome is not Outcome.FAILURE and not self._failures and not self._losses:
            return  # all is well, and stays so
        key = (attempt.worker_id, attempt.part)
        failures = self._failures.get(key)
        is_trial = failures is not None and failures.trial is attempt
        if failures is not None and failures.ejected_until is not None and not is_trial:
            return  # sent before the ejection: it says how the model was then
        losses = self._losses.get(attempt.worker_id)
        if losses is not None and attempt.began < losses.until:
            outcome = Outcome.ABANDONED  # sent before the loss: it says how the worker was then
        if outcome is Outcome.SUCCESS:
            self._failures.pop(key, None)
            self._losses.pop(attempt.worker_id, None)
        elif outcome is Outcome.FAILURE:
            failures = failures or _remember(self._failures, key, _Failures, self._REMEMBERED)
            failures.count += 1
            if is_trial or failures.count >= self._limits.failures:
                failures.ejections += 1
                failures.ejected_until = now + self._limits.ejection(failures.ejections)
                failures.trial = None
        elif failures is not None:
            failures.trial = None

    def connection_lost(self, worker_id: WorkerId, now: float) -> None:
        """Ejects at once; how the requests that were on the connection end does not matter any more."""
        losses = _remember(self._losses, worker_id, _Losses, self._REMEMBERED)
        if now < losses.until:
            return
        if now > losses.until + self._limits.longest_ejection:
            losses.count = 0  # it has been well since, though nobody asked it
        losses.count += 1
        losses.until = now + self._limits.ejection(losses.count)


def _remember(records: dict[K, R], key: K, make: Callable[[], R], at_most: int) -> R:
    """Its record, a new one if need be; the oldest one goes for it."""
    if key not in records:
        if len(records) >= at_most:
            del records[next(iter(records))]
        records[key] = make()
    return records[key]
