"""What one tenant or model may use, what it has now, and whether another request fits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from shoal.config import LimitConfig
from shoal.coordinator.admission.bucket import Bucket
from shoal.coordinator.admission.demand import Demand
from shoal.coordinator.admission.drain import Drain

_UNITS = ("requests", "rows", "tokens")


class Refusal(NamedTuple):
    reason: str  # which bound, for the metrics
    message: str
    retry_after: float | None  # seconds; None: never as it is


class Bounds:
    """``kind``: model or tenant; ``name``: which one. Times in seconds."""

    def __init__(self, limits: LimitConfig, *, kind: str, name: str, now: float) -> None:
        self._limits = limits
        self._kind = kind
        self._who = f"{kind} '{name}'" if name else "whoever names no tenant"
        self._held = [0, 0, 0]  # requests, rows, tokens
        self._most = (limits.requests, limits.rows, limits.tokens)
        rates = (limits.requests_per_second, limits.rows_per_second, limits.tokens_per_second)
        self._buckets = [None if rate is None else Bucket(rate, max(1.0, rate * limits.burst), now) for rate in rates]
        self._ends = Drain()

    def refusal(self, demand: Demand, now: float) -> Refusal | None:
        """Why a request does not fit now; None: it does."""
        return next(self._held_too_much(demand, now), None) or next(self._too_fast(demand, now), None)

    def take(self, demand: Demand, now: float) -> None:
        """A request that fits has come."""
        for index, amount in enumerate(_amounts(demand)):
            self._held[index] += amount
            if (bucket := self._buckets[index]) is not None:
                bucket.take(amount, now)

    def give_back(self, demand: Demand, used: int | None, now: float) -> None:
        """It has ended; ``used``: tokens, where that is known."""
        for index, amount in enumerate(_amounts(demand)):
            self._held[index] -= amount
        tokens = self._buckets[2]
        if tokens is not None and used is not None:
            tokens.take(used - demand.tokens, now)
        self._ends.left(1)

    def is_idle(self, now: float) -> bool:
        """Would a new one be the same?"""
        return not self._held[0] and all(bucket is None or bucket.is_full(now) for bucket in self._buckets)

    def _held_too_much(self, demand: Demand, now: float) -> Iterator[Refusal]:
        for unit, amount, held, most in zip(_UNITS, _amounts(demand), self._held, self._most, strict=True):
            if most is None or held + amount <= most:
                continue
            reason = f"{self._kind}_{unit}"
            if amount > most:
                yield Refusal(reason, f"{self._who} may have {most} {unit} at a time; this request has {amount}", None)
            else:
                message = f"{self._who} is at its limit of {most} {unit} at a time ({held} now)"
                yield Refusal(reason, message, self._ends.seconds_for(self._held[0] / 2, now))

    def _too_fast(self, demand: Demand, now: float) -> Iterator[Refusal]:
        for unit, amount, bucket in zip(_UNITS, _amounts(demand), self._buckets, strict=True):
            if bucket is not None and (wait := bucket.wait(amount, now)) > 0:
                rate = getattr(self._limits, f"{unit}_per_second")
                message = f"{self._who} is at its limit of {rate:g} {unit} a second"
                yield Refusal(f"{self._kind}_{unit}_per_second", message, wait)


def _amounts(demand: Demand) -> tuple[int, int, int]:
    return demand.requests, demand.rows, demand.tokens
