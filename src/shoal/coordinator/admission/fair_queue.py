"""Who is next: fair between tenants, by urgency inside one.

Between tenants it is start-time fair queueing (P. Goyal, H. Vin, H. Cheng, "Start-time fair queueing", SIGCOMM 1996),
with one tag for each tenant in place of one for each request: a turn costs its tenant the request's cost for its weight
in virtual time, and the turn is always of the tenant that is furthest behind. One who was away begins where the others
are, so that nobody saves up. What a request really took is settled when that is known (Y. Sheng et al., "Fairness in
serving large language models", OSDI 2024).

How many may wait is a dynamic threshold (A. Choudhury, E. Hahne, "Dynamic queue length thresholds for shared-memory
packet switches", IEEE/ACM ToN 6, 1998): a tenant may fill the room up to a multiple of what is left, so that there
always is some left for one who comes later, and nobody who waits is ever sent away for another.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable
from typing import Final

PROMOTION: Final = 5.0  # seconds of waiting that count as much as a step of priority
MAX_PRIORITY: Final = 10  # of either sign; beyond it counts as this
THRESHOLD: Final = 8.0  # times the room that is left, that a tenant of weight 1 may have
_IDLE_KEPT: Final = 64  # tenants that wait for nothing, kept for what they still owe


class Waiting:
    """A request in the queue. ``deadline`` and ``arrived`` are on one clock, in seconds.

    Of two that wait the one with the higher priority goes first, unless the other has waited :data:`PROMOTION` longer
    for each step between them; of two with the same, the one with the earlier deadline, where none counts as later
    than :data:`PROMOTION` from its arrival. So nobody is overtaken by requests that come later than
    ``(2 · MAX_PRIORITY + 1) · PROMOTION`` after it.
    """

    __slots__ = ("cost", "deadline", "place", "tenant")

    def __init__(
        self, tenant: str, *, cost: int, deadline: float, arrived: float, number: int, priority: int = 0
    ) -> None:
        self.tenant = tenant
        self.cost = cost
        self.deadline = deadline
        step = min(max(priority, -MAX_PRIORITY), MAX_PRIORITY)
        #: The lower, the sooner; no two are equal, as ``number`` is not.
        self.place = (min(deadline, arrived + PROMOTION) - PROMOTION * step, number)


class _Flow:
    """A tenant."""

    __slots__ = ("cost", "finish", "start", "waiting", "weight")

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.waiting: list[Waiting] = []  # in their order
        self.cost = 0  # of all of them
        self.start = 0.0  # of its next turn, in virtual time
        self.finish = 0.0  # of its last one


class FairQueue:
    """``weight`` of a tenant by its name."""

    def __init__(self, weight: Callable[[str], float]) -> None:
        self._weight = weight
        self._flows: dict[str, _Flow] = {}
        self._backlogged: dict[str, _Flow] = {}  # some of them
        self._virtual = 0.0
        self._length = 0
        self._cost = 0

    def __len__(self) -> int:
        return self._length

    def has_room(self, tenant: str, free: int) -> bool:
        """May one more of the tenant's wait, where there is room for ``free`` of anybody's?"""
        flow = self._backlogged.get(tenant)
        return free > 0 and (flow is None or len(flow.waiting) < THRESHOLD * flow.weight * free)

    def put(self, waiting: Waiting) -> None:
        flow = self._flows.get(waiting.tenant)
        if flow is None:
            flow = self._flows[waiting.tenant] = _Flow(self._weight(waiting.tenant))
        if not flow.waiting:
            flow.start = max(self._virtual, flow.finish)
            self._backlogged[waiting.tenant] = flow
        insort(flow.waiting, waiting, key=_place)
        self._count(flow, 1, waiting.cost)

    def first(self) -> Waiting | None:
        return self._next().waiting[0] if self._backlogged else None

    def take(self) -> Waiting:
        """The first gets its turn, and its tenant pays for it."""
        flow = self._next()
        waiting = flow.waiting[0]
        self._virtual = flow.start
        flow.finish = flow.start = flow.start + waiting.cost / flow.weight
        self.remove(waiting)
        return waiting

    def remove(self, waiting: Waiting) -> None:
        """It does not want its turn any more. One that does not wait here changes nothing."""
        flow = self._backlogged.get(waiting.tenant)
        index = -1 if flow is None else bisect_left(flow.waiting, waiting.place, key=_place)
        if flow is None or index == len(flow.waiting) or flow.waiting[index] is not waiting:
            return
        del flow.waiting[index]
        self._count(flow, -1, -waiting.cost)
        if not flow.waiting:
            del self._backlogged[waiting.tenant]
            self._forget()

    def settle(self, tenant: str, extra: float) -> None:
        """A turn cost so much more than was thought, or less."""
        flow = self._flows.get(tenant)
        if flow is not None:
            flow.finish = max(self._virtual, flow.finish + extra / flow.weight)
            flow.start = max(self._virtual, flow.start + extra / flow.weight)

    def ahead(self, waiting: Waiting) -> float:
        """Roughly how much is served before a request that would be put here now: what its tenant has in front of it,
        and of the others as much as their weights give them meanwhile, but no more than they have."""
        flow = self._backlogged.get(waiting.tenant)
        own, weight = 0.0, self._weight(waiting.tenant)
        if flow is not None:
            before = bisect_left(flow.waiting, waiting.place, key=_place)
            own = flow.cost * before / len(flow.waiting)
        others = self._cost - (flow.cost if flow is not None else 0)
        rivals = sum(other.weight for other in self._backlogged.values() if other is not flow)
        return own + min(others, (own + waiting.cost) * rivals / weight)

    def _next(self) -> _Flow:
        return min(self._backlogged.values(), key=_start)

    def _count(self, flow: _Flow, length: int, cost: int) -> None:
        self._length += length
        self._cost += cost
        flow.cost += cost

    def _forget(self) -> None:
        """Those who wait for nothing and owe nothing; when nobody waits all begin anew."""
        if not self._backlogged:
            self._flows.clear()
            self._virtual = 0.0
        elif len(self._flows) > 2 * len(self._backlogged) + _IDLE_KEPT:
            behind = self._virtual
            self._flows = {name: flow for name, flow in self._flows.items() if flow.waiting or flow.finish > behind}


def _place(waiting: Waiting) -> tuple[float, int]:
    return waiting.place


def _start(flow: _Flow) -> float:
    return flow.start
