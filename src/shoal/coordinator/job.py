"""A request that is answered later: who ordered it is told its id at once, and comes back for the answer."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from enum import StrEnum

import msgspec

from shoal.coordinator.live_log import LiveLog
from shoal.errors import ShoalError
from shoal.types import RequestId

STATE_EVENT = "state"  # name of the events that tell a new state


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


#: What may follow what. A state that nothing follows is final.
NEXT: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.FAILED, JobState.CANCELLED}),
    JobState.RUNNING: frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}


def digest(url: str, body: bytes) -> bytes:
    """Tells one request from another."""
    return hashlib.sha256(url.encode() + b"\0" + body).digest()


@dataclass(frozen=True, slots=True)
class Order:
    """What a client ordered: a request to one of the surfaces."""

    url: str
    body: bytes
    priority: int = 0  # the higher, the sooner
    deadline: float | None = None  # on the loop's clock, waiting included
    key: str = ""  # of idempotency: the same one gets the same job; empty: none
    tenant: str = ""

    @property
    def digest(self) -> bytes:
        return digest(self.url, self.body)


@dataclass(frozen=True, slots=True)
class Result:
    """The answer as the surface gave it."""

    status: int  # of HTTP
    body: bytes  # JSON


@dataclass(slots=True, eq=False)
class Job:
    """``created``, ``started`` and ``finished`` are seconds since 1970, ``expires`` is on the loop's clock."""

    id: RequestId
    order: Order
    created: float
    state: JobState = JobState.QUEUED
    started: float | None = None
    finished: float | None = None
    expires: float | None = None
    outcome: Result | ShoalError | None = None  # the error of a job that no surface answered
    events: LiveLog[bytes] = field(default_factory=lambda: LiveLog[bytes](len))
    digest: bytes = b""  # of the order

    def __post_init__(self) -> None:
        self.digest = self.order.digest

    @property
    def key(self) -> str:
        return self.order.key

    @property
    def tenant(self) -> str:
        return self.order.tenant

    @property
    def final(self) -> bool:
        return not NEXT[self.state]

    @property
    def size(self) -> int:
        """Bytes of what is kept of it."""
        answer = len(self.outcome.body) if isinstance(self.outcome, Result) else 0
        return len(self.order.body) + self.events.log.bytes_used + answer

    def enter(self, state: JobState) -> None:
        """Change to a state that may follow, and tell the readers of the events."""
        assert state in NEXT[self.state], f"{state} does not follow {self.state}"
        self.state = state
        self.tell_state()
        if self.final:
            self.events.close()
            self.order = replace(self.order, body=b"")  # nobody needs it any more

    def tell_state(self) -> None:
        self.events.append(msgspec.json.encode({"state": self.state}), STATE_EVENT)
