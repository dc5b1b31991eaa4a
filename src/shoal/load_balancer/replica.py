"""One loaded copy of a model on a worker, alive: what is told of its worker shows here at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from shoal.load_balancer.latency import PeakEwma
from shoal.load_balancer.standing import Pace, Reliability
from shoal.messages import ModelInfo
from shoal.types import ModelState, WorkerId, WorkerState

if TYPE_CHECKING:
    from shoal.load_balancer.pool import Pool

SLOW_START: Final = 10.0  # seconds until a newcomer gets its whole share
STEP: Final = 0.1  # seconds after which a share that grows is assessed anew
FIRST_SHARE: Final = 0.1  # of its whole share, that a newcomer begins with


class Worker(Protocol):
    """What balancing needs to know of a worker."""

    @property
    def worker_id(self) -> WorkerId: ...
    @property
    def state(self) -> WorkerState: ...
    @property
    def suspect(self) -> bool:
        """Has it been silent for too long, though its connection stands?"""

    @property
    def capacity(self) -> int:
        """Requests it takes at a time."""

    @property
    def in_flight(self) -> int:
        """Requests it has, whoever sent them."""

    @property
    def weight(self) -> float: ...
    @property
    def zone(self) -> str: ...
    @property
    def reliability(self) -> Reliability: ...
    @property
    def reason(self) -> str:
        """Why it has gone."""


class Replica:
    """``info`` changes with what the worker tells; the rest belongs to the pool and its policy."""

    __slots__ = ("assessed", "begun", "info", "is_known", "latency", "pace", "part", "pool", "share", "turn", "worker")

    def __init__(self, worker: Worker, info: ModelInfo) -> None:
        self.worker = worker
        self.part = info.part
        self.info = info
        self.latency = PeakEwma()
        self.pace = Pace()
        self.pool: Pool | None = None
        self.is_known = False  # has it ever served?
        self.begun: float | None = None  # when it was first thought of for a request
        self.share = FIRST_SHARE  # of what it would get, while it is new, slow or comes and goes
        self.assessed = float("-inf")  # when that was
        self.turn = 0.0  # where it stands among those who take turns

    def __repr__(self) -> str:
        return f"<Replica of {self.info.part} on {self.worker!r}>"

    @property
    def worker_id(self) -> WorkerId:
        return self.worker.worker_id

    @property
    def is_serving(self) -> bool:
        """Does it answer, though it may be full now?"""
        state = self.worker.state
        return self.info.state is ModelState.READY and (state is WorkerState.READY or state is WorkerState.OVERLOADED)

    @property
    def has_room(self) -> bool:
        return self.worker.state is WorkerState.READY and self.worker.in_flight < self.worker.capacity

    @property
    def places(self) -> int:
        """Rows of a tensor model, or generations, that it makes use of at a time; more would only wait there."""
        return self.info.at_once or self.worker.capacity

    @property
    def is_busy(self) -> bool:
        """Has its worker so many requests that one more might only wait?"""
        return self.worker.in_flight >= self.places

    @property
    def size(self) -> float:
        """How much it takes beside others, new or not."""
        return self.worker.capacity * self.worker.weight

    @property
    def load(self) -> float:
        """Its requests for its size."""
        return self.worker.in_flight / (self.worker.capacity * self.worker.weight)

    def answered(self, seconds: float, now: float) -> None:
        self.latency.observe(seconds, now)
        self.pace.observe(seconds)

    def assess(self, now: float) -> bool:
        """What its share is now; False when that will change by time alone. A newcomer's caches are cold and its memory
        is untouched, so it grows with its age."""
        if self.begun is None:
            self.begun = now
        self.assessed = now
        growth = min(1.0, FIRST_SHARE + (1 - FIRST_SHARE) * (now - self.begun) / SLOW_START)
        reliability = self.worker.reliability.at(now)
        self.share = growth * reliability * self.pace.value
        return growth == reliability == 1.0
