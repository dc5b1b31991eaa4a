"""Who is in the fleet and how each is, from what the workers and their connections say.

The caller tells every event with the time at which it happened; nothing here waits, connects or reads a clock.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from shoal.errors import Overloaded, ProtocolError
from shoal.load_balancer import Pool, Reliability, Replica
from shoal.messages import Load, ModelInfo, Register, Status
from shoal.types import ModelId, ModelPart, WorkerId, WorkerState

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
_GONE_KEPT: Final = 32  # members that have gone, kept to say why


class Member:
    """One registration of a worker. It ends with its connection; the next one is another member.

    So whoever holds a member from before a restart cannot touch the one that came after.
    """

    def __init__(self, registration: Register, now: float, *, heartbeat: float) -> None:
        self.registration = registration
        self.worker_id = registration.worker_id
        self.capacity = registration.capacity
        self.weight = registration.weight
        self.zone = registration.zone
        self.state = registration.state
        self.reliability = Reliability()
        self.suspect = False  # silent for too long
        self.reason = ""  # why it has gone
        self.models: Mapping[ModelId, ModelInfo] = {}  # as it last told; of one in shards, the last of those
        self.replicas: dict[ModelPart, Replica] = {}
        self.told_models: tuple[ModelInfo, ...] = ()  # as in its last word
        self.load = Load()  # as it last told
        self.heard = now  # when it last did
        self.heartbeat = heartbeat  # seconds between its reports at most
        self.probed: float | None = None  # when it was asked for a sign of life, if not since its last word
        self.sent = 0  # requests this coordinator has there
        self.in_flight = 0  # those, counted exactly, and of other coordinators' as many as it last told of

    def __repr__(self) -> str:
        return f"<Member {self.worker_id} {self.state}, {self.in_flight} of {self.capacity} in flight>"

    def told(self, load: Load, now: float) -> None:
        self.load, self.heard = load, now
        self.in_flight = max(self.sent, load.in_flight)

    def changed_by(self, requests: int) -> None:
        """This coordinator has so many more of its requests there, or fewer."""
        had_room = self.in_flight < self.capacity
        self.sent += requests
        self.in_flight += requests
        if had_room is not (self.in_flight < self.capacity):
            self.changed()
            return
        for replica in self.replicas.values():
            if replica.pool is not None:
                replica.pool.loaded(replica)

    def changed(self) -> None:
        """Tell those who balance over its replicas."""
        for replica in self.replicas.values():
            if replica.pool is not None:
                replica.pool.changed(replica)

    def move(self, state: WorkerState) -> None:
        """Come to a state, if :data:`MOVES` has the way there."""
        if state in MOVES[self.state]:
            self.state = state


class Membership:
    """Every worker, by id. A worker that registers again takes the place of its earlier registration.

    ``zone`` is this coordinator's.
    """

    def __init__(self, *, heartbeat_interval: float, zone: str = "", chance: random.Random | None = None) -> None:
        self._heartbeat_interval = heartbeat_interval
        self._zone = zone
        self._chance = chance or random.Random()
        self._members: dict[WorkerId, Member] = {}
        self._gone: dict[WorkerId, Member] = {}  # the longest ago first
        self._pools: dict[ModelPart, Pool] = {}
        self._count: Counter[WorkerState] = Counter()
        self._unreliable: dict[WorkerId, Reliability] = {}  # that were lost; the longest ago first

    def __len__(self) -> int:
        return len(self._members)

    def members(self) -> tuple[Member, ...]:
        """Those that have not gone."""
        return tuple(self._members.values())

    def count(self) -> Mapping[WorkerState, int]:
        """Members in each state; those that have gone are not counted."""
        return +self._count

    # -- events

    def registered(self, message: Register, now: float) -> Member:
        """Raises :class:`Overloaded` beyond :data:`MAX_WORKERS`, :class:`ProtocolError` for one that has gone."""
        if message.state is _GONE:
            raise ProtocolError(f"worker {message.worker_id} cannot register as {_GONE}")
        if message.worker_id not in self._members and len(self._members) >= MAX_WORKERS:
            raise Overloaded(f"this coordinator has {MAX_WORKERS} workers already, which is its limit")
        if (earlier := self._members.get(message.worker_id)) is not None:
            self._move(earlier, _GONE)
            self._retire(earlier, "it registered again")
        self._gone.pop(message.worker_id, None)
        member = self._members[message.worker_id] = Member(message, now, heartbeat=self._heartbeat_interval)
        member.reliability = self._unreliable.get(member.worker_id, member.reliability)
        self._count[member.state] += 1
        self._has(member, message.models)
        return member

    def reported(self, member: Member, message: Status, now: float) -> bool:
        """How it is now; False, and nothing changes, when it comes from an earlier registration or is about another."""
        if not self._is_current(member) or message.worker_id != member.worker_id:
            return False
        self._move(member, message.state)
        self._has(member, message.models)
        member.told(message.load, now)
        member.suspect = False
        member.changed()
        if member.state is _GONE:
            self._retire(member, "it stopped")
        return True

    def loaded(self, member: Member, load: Load, now: float) -> None:
        """A heartbeat of one whose state and models are as before. Harmless from an earlier registration."""
        if not self._is_current(member):
            return
        before = (member.in_flight, member.suspect)
        member.told(load, now)
        member.suspect = False
        if before != (member.in_flight, member.suspect):
            member.changed()

    def draining(self, member: Member) -> None:
        """It is being told to drain: it gets nothing new, even before it has heard of it."""
        self._move(member, _DRAINING)

    def suspected(self, member: Member, suspect: bool) -> None:
        """It is silent, or has spoken again."""
        if member.suspect is not suspect:
            member.suspect = suspect
            member.changed()

    def fell(self, member: Member, now: float) -> None:
        """It went without a word, for good or for a while. Should it come back, it has to win its share again."""
        self._unreliable.pop(member.worker_id, None)
        if len(self._unreliable) >= MAX_WORKERS:
            del self._unreliable[next(iter(self._unreliable))]
        self._unreliable[member.worker_id] = member.reliability
        member.reliability.lost(now)
        for replica in member.replicas.values():
            if replica.pool is not None:
                replica.pool.unsettled(replica)

    def weigh(self, now: float) -> None:
        """Compare the replicas of each model with each other; call it each second or so."""
        for pool in self._pools.values():
            if len(pool) > 1:
                pool.weigh(now)

    def left(self, member: Member, reason: str) -> None:
        """It deregistered, its connection ended, or as a suspect it did not answer. Harmless when it has gone."""
        if self._is_current(member):
            self._move(member, _GONE)
            self._retire(member, reason)

    # -- for the router

    def pool(self, part: ModelPart) -> Pool | None:
        """The replicas of a model, or of one shard of it; None when there have never been any."""
        return self._pools.get(part)

    def replicas(self, part: ModelPart) -> Sequence[Replica]:
        """Each one in the fleet, those of workers that have just gone last."""
        gone = (member.replicas.get(part) for member in self._gone.values())
        return [*self._pools.get(part, ()), *(replica for replica in gone if replica is not None)]

    def _is_current(self, member: Member) -> bool:
        return self._members.get(member.worker_id) is member

    def _move(self, member: Member, state: WorkerState) -> None:
        was = member.state
        member.move(state)
        if member.state is not was and self._is_current(member):
            self._count[was] -= 1
            self._count[member.state] += member.state is not _GONE
            member.changed()

    def _has(self, member: Member, models: tuple[ModelInfo, ...]) -> None:
        """Bring its replicas in line with what it tells of its models."""
        if models == member.told_models:
            return
        member.told_models = models
        member.models = {info.id: info for info in models}
        told = {info.part: info for info in models}
        for part in member.replicas.keys() - told.keys():
            self._drop(member.replicas.pop(part), part)
        for part, info in told.items():
            replica = member.replicas.get(part)
            if replica is None:
                replica = member.replicas[part] = Replica(member, info)
                self._pool_of(part).add(replica)
            else:
                replica.info = info
        member.changed()

    def _pool_of(self, part: ModelPart) -> Pool:
        if (pool := self._pools.get(part)) is None:
            pool = self._pools[part] = Pool(zone=self._zone, chance=self._chance)
        return pool

    def _drop(self, replica: Replica, part: ModelPart) -> None:
        pool = self._pools[part]
        pool.remove(replica)
        if not pool:
            del self._pools[part]

    def _retire(self, member: Member, reason: str) -> None:
        member.reason = reason
        for part, replica in member.replicas.items():
            self._drop(replica, part)
        self._gone[member.worker_id] = self._members.pop(member.worker_id)
        if len(self._gone) > _GONE_KEPT:
            del self._gone[next(iter(self._gone))]
