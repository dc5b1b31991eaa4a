"""Who is let in. Beyond a bound the answer is no, at once, with the bound's name and the time to come back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from shoal.clock import now
from shoal.config import DEFAULT_TENANT, LimitConfig, TenantConfig
from shoal.coordinator.admission.bounds import Bounds, Refusal
from shoal.coordinator.admission.demand import USUAL_ANSWER, Demand, demand, together
from shoal.coordinator.admission.drain import RETRY_AFTER, Drain
from shoal.errors import Draining, Overloaded, PayloadTooLarge, ShoalError
from shoal.messages import Generate, Infer
from shoal.model_registry import ModelSpec
from shoal.types import ModelId

NO_LIMITS: Final = LimitConfig()
_NO_TENANTS: Final[Mapping[str, TenantConfig]] = {}
_KEPT: Final = 1024  # bounds of tenants and models; beyond, those that are as new go

#: Told of each request that is not let in: why, and whose it is.
Rejected = Callable[[str, str], None]


class Admission:
    """``tenants``: what each may use, by name."""

    def __init__(
        self,
        max_in_flight: int,
        *,
        tenants: Mapping[str, TenantConfig] = _NO_TENANTS,
        rejected: Rejected = lambda reason, tenant: None,
    ) -> None:
        self.in_flight = 0
        self.closed = False  # draining: what runs may end, nothing new begins
        self._idle = asyncio.Event()
        self._idle.set()
        self._max_in_flight = max_in_flight
        self._tenants = tenants
        self._rejected = rejected
        self._bounds: dict[str | ModelId, Bounds] = {}
        self._ends = Drain()
        self._unbounded = Place(self, (), Demand(0, 0))

    @property
    def free(self) -> int:
        """How many more may come."""
        return self._max_in_flight - self.in_flight

    def weight(self, tenant: str) -> float:
        return config.weight if (config := self._config(tenant)) else 1.0

    def enter(self, request: Generate | Infer, spec: ModelSpec) -> Place:
        """A place, to be left exactly once when the request has ended.

        Raises :class:`Draining`, :class:`Overloaded`, and :class:`PayloadTooLarge` for what is beyond a bound alone.
        """
        self._check_room(1, request.tenant)
        if not self._tenants and spec.settings.limits == NO_LIMITS:
            place = self._unbounded
        else:
            wanted = _demand(request, spec)
            place = Place(self, self._taken(wanted, request.tenant, spec), wanted)
        self._came(1)
        return place

    def enter_together(self, requests: Sequence[Generate], spec: ModelSpec) -> Sequence[Place]:
        """A place for each of the generations of one request, or for none: what some of them computed would be in vain.

        They may be left more than once. Raises as :meth:`enter` does, for all of them as one.
        """
        tenant = requests[0].tenant
        self._check_room(len(requests), tenant)
        wanted = [_demand(request, spec) for request in requests]
        bounds = self._taken(together(wanted), tenant, spec)
        self._came(len(requests))
        return [PlaceAmongOthers(self, bounds, each) for each in wanted]

    def left(self) -> None:
        """For :class:`Place`."""
        self._ends.left(1)
        self.in_flight -= 1
        if not self.in_flight:
            self._idle.set()

    def refused(self, refusal: Refusal, tenant: str) -> ShoalError:
        """Counts it, and is the error to raise."""
        self._rejected(refusal.reason, tenant)
        if refusal.retry_after is None:
            return PayloadTooLarge(refusal.message)
        return Overloaded(refusal.message, retry_after=max(RETRY_AFTER, refusal.retry_after))

    async def drain(self, timeout: float) -> None:
        """Let nothing new in and wait until what runs has ended, at most ``timeout`` seconds."""
        self.closed = True
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout)

    def _check_room(self, requests: int, tenant: str) -> None:
        most = self._max_in_flight
        if self.closed:
            self._rejected("draining", tenant)
            raise Draining(retry_after=RETRY_AFTER)
        if self.in_flight + requests <= most:
            return
        at, message = None, f"the server may have {most} requests at a time; this one has {requests}"
        if requests <= most:
            at = self._ends.seconds_for(most / 2, now())
            message = f"the server is at its limit of {most} requests at a time"
        raise self.refused(Refusal("max_in_flight", message, at), tenant)

    def _came(self, requests: int) -> None:
        self.in_flight += requests
        self._idle.clear()

    # -- bounds of tenants and models

    def _taken(self, wanted: Demand, tenant: str, spec: ModelSpec) -> tuple[Bounds, ...]:
        at = now()
        bounds = tuple(self._of(tenant, spec, at))
        for bound in bounds:
            if (refusal := bound.refusal(wanted, at)) is not None:
                raise self.refused(refusal, tenant)
        for bound in bounds:
            bound.take(wanted, at)
        return bounds

    def _of(self, tenant: str, spec: ModelSpec, at: float) -> list[Bounds]:
        found = []
        if (limits := self._config(tenant)) is not None:
            found.append(self._bounds.get(tenant) or self._new(tenant, limits, "tenant", tenant, at))
        if spec.settings.limits != NO_LIMITS:
            found.append(self._bounds.get(spec.id) or self._new(spec.id, spec.settings.limits, "model", spec.name, at))
        return found

    def _new(self, key: str | ModelId, limits: LimitConfig, kind: str, name: str, at: float) -> Bounds:
        """Only proxies that are trusted name tenants, and an idle one's rates are soon as new, so the few that are
        kept beyond the number are those that have come in the last seconds."""
        if len(self._bounds) >= _KEPT:
            self._bounds = {key: bounds for key, bounds in self._bounds.items() if not bounds.is_idle(at)}
        made = self._bounds[key] = Bounds(limits, kind=kind, name=name, now=at)
        return made

    def _config(self, tenant: str) -> TenantConfig | None:
        return self._tenants.get(tenant) or self._tenants.get(DEFAULT_TENANT)


def _demand(request: Generate | Infer, spec: ModelSpec) -> Demand:
    return demand(request, batchable=bool(spec.batchable), usual_answer=USUAL_ANSWER)


class Place:
    """What an admitted request has until it ends."""

    __slots__ = ("_admission", "_bounds", "_demand")

    def __init__(self, admission: Admission, bounds: tuple[Bounds, ...], demand: Demand) -> None:
        self._admission = admission
        self._bounds = bounds
        self._demand = demand

    def leave(self, used: int | None = None) -> None:
        """``used``: tokens of prompt and answer, where they are known."""
        for bound in self._bounds:
            bound.give_back(self._demand, used, now())
        self._admission.left()


class PlaceAmongOthers(Place):
    """Whoever has entered for several leaves for those, too, that never began."""

    __slots__ = ("_left",)

    def __init__(self, admission: Admission, bounds: tuple[Bounds, ...], demand: Demand) -> None:
        super().__init__(admission, bounds, demand)
        self._left = False

    def leave(self, used: int | None = None) -> None:
        if not self._left:
            self._left = True
            super().leave(used)
