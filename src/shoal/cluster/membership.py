"""Who is in the fleet and how each is, from what the workers and their connections say.

The caller tells every event with the time at which it happened; nothing here waits, connects or reads a clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Final

from shoal.errors import Overloaded, ProtocolError
from shoal.load_balancer import Replica
from shoal.messages import Load, ModelInfo, Register, Status
from shoal.router import Candidate
from shoal.types import ModelId, WorkerId, WorkerState

_STARTING, _READY, _OVERLOADED = WorkerState.STARTING, WorkerState.READY, WorkerState.OVERLOADED
_DRAINING, _GONE = WorkerState.DRAINING, WorkerState.GONE
_SERVING = frozenset({_STARTING, _READY, _OVERLOADED})

#: Where a worker may go from each state. Staying is a move too. Back to starting: its engines died and load again.
#: A report of any other state changes nothing: it crossed our order to drain on the way.
MOVES: Final[Mapping[WorkerState, frozenset[WorkerState]]] = MappingProxyType(
    {
        _STARTING: _SERVING | {_DRAINING, _GONE},
        _READY: _SERVING | {_DRAINING, _GONE},
        _OVERLOADED: _SERVING | {_DRAINING, _GONE},
        _DRAINING: frozenset({_DRAINING, _GONE}),
        _GONE: frozenset(),  # whoever comes back registers, and that is a new member
    }
)

MAX_WORKERS: Final = 4096
MISSED_HEARTBEATS: Final = 3  # intervals without a word, until a worker is suspected
_GONE_KEPT: Final = 32  # members that have gone, kept to say why


class Member:
    """One registration of a worker. It ends with its connection; the next one is another member.

    So whoever holds a member from before a restart cannot touch the one that came after.
    """

    def __init__(self, registration: Register, now: float) -> None:
        self.registration = registration
        self.state = registration.state
        self.reason = ""  # why it has gone
        self.models: Mapping[ModelId, ModelInfo] = {info.id: info for info in registration.models}
        self.load = Load()  # as it last told
        self.heard = now  # when it last did
        self.sent = 0  # requests this coordinator has there
        self._others = 0  # requests of other coordinators, when it last told

    def __repr__(self) -> str:
        return f"<Member {self.worker_id} {self.state}, {self.in_flight} of {self.registration.capacity} in flight>"

    @property
    def worker_id(self) -> WorkerId:
        return self.registration.worker_id

    @property
    def in_flight(self) -> int:
        """Our own are counted here, exactly; of the others it is as the worker last told."""
        return self.sent + self._others

    def told(self, load: Load, now: float) -> None:
        self.load, self.heard = load, now
        self._others = max(0, load.in_flight - self.sent)

    @contextmanager
    def occupied(self) -> Iterator[None]:
        """Counts a request of this coordinator's for as long as the worker has it."""
        self.sent += 1
        try:
            yield
        finally:
            self.sent -= 1

    def move(self, state: WorkerState) -> None:
        """Come to a state, if :data:`MOVES` has the way there."""
        if state in MOVES[self.state]:
            self.state = state


class Membership:
    """Every worker, by id. A worker that registers again takes the place of its earlier registration."""

    def __init__(self, *, heartbeat_interval: float) -> None:
        self._patience = MISSED_HEARTBEATS * heartbeat_interval
        self._members: dict[WorkerId, Member] = {}
        self._gone: dict[WorkerId, Member] = {}  # the longest ago first

    def __len__(self) -> int:
        return len(self._members)

    def members(self) -> tuple[Member, ...]:
        """Those that have not gone."""
        return tuple(self._members.values())

    def count(self) -> Mapping[WorkerState, int]:
        """Members in each state; those that have gone are not counted."""
        return Counter(member.state for member in self._members.values())

    # -- events

    def registered(self, message: Register, now: float) -> Member:
        """Raises :class:`Overloaded` beyond :data:`MAX_WORKERS`, :class:`ProtocolError` for one that has gone."""
        if message.state is _GONE:
            raise ProtocolError(f"worker {message.worker_id} cannot register as {_GONE}")
        if message.worker_id not in self._members and len(self._members) >= MAX_WORKERS:
            raise Overloaded(f"this coordinator has {MAX_WORKERS} workers already, which is its limit")
        if (earlier := self._members.pop(message.worker_id, None)) is not None:
            earlier.state, earlier.reason = _GONE, "it registered again"
        self._gone.pop(message.worker_id, None)
        member = self._members[message.worker_id] = Member(message, now)
        return member

    def reported(self, member: Member, message: Status, now: float) -> bool:
        """A heartbeat; False, and nothing changes, when it comes from an earlier registration or is about another."""
        if not self._is_current(member) or message.worker_id != member.worker_id:
            return False
        member.move(message.state)
        if member.state is _GONE:
            self._retire(member, "it stopped")
        member.models = {info.id: info for info in message.models}
        member.told(message.load, now)
        return True

    def draining(self, member: Member) -> None:
        """It is being told to drain: it gets nothing new, even before it has heard of it."""
        member.move(_DRAINING)

    def left(self, member: Member, reason: str) -> None:
        """It deregistered, its connection ended, or as a suspect it did not answer. Harmless when it has gone."""
        if self._is_current(member):
            member.move(_GONE)
            self._retire(member, reason)

    def suspects(self, now: float) -> list[Member]:
        """Whose heartbeat is overdue."""
        return [member for member in self._members.values() if now - member.heard > self._patience]

    # -- for the router

    def candidates(self, model: ModelId, now: float) -> Sequence[Candidate]:
        """Every worker that has the model, those that have just gone last."""
        return [
            _candidate(member, info, now)
            for members in (self._members, self._gone)
            for member in members.values()
            if (info := member.models.get(model)) is not None
        ]

    def _is_current(self, member: Member) -> bool:
        return self._members.get(member.worker_id) is member

    def _retire(self, member: Member, reason: str) -> None:
        member.reason = reason
        self._gone[member.worker_id] = self._members.pop(member.worker_id)
        if len(self._gone) > _GONE_KEPT:
            del self._gone[next(iter(self._gone))]


def _candidate(member: Member, info: ModelInfo, now: float) -> Candidate:
    replica = Replica(
        worker_id=member.worker_id,
        state=member.state,
        capacity=member.registration.capacity,
        in_flight=member.in_flight,
        load_age=now - member.heard,
        zone=member.registration.zone,
    )
    return Candidate(replica, info.state, member.reason or info.reason)
