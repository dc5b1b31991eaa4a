"""The replicas of a model, or of one of its shards, as a coordinator sees them: who can take a request, who is near."""

from __future__ import annotations

import random
from collections.abc import Collection, Container, Iterator
from enum import Enum, auto
from typing import Final

import msgspec

from shoal.load_balancer.health import Health
from shoal.load_balancer.policies import POLICIES, Policy
from shoal.load_balancer.replica import STEP, Replica
from shoal.load_balancer.standing import usual_seconds
from shoal.types import WorkerId

_TENDED: Final = 4  # newcomers and ejected replicas looked at before each choice: its cost stays the same in any fleet


class Tier(Enum):
    """Where a replica was found. The earlier, the better."""

    LOCAL = auto()  # in the coordinator's zone, or zones play no part
    REMOTE = auto()
    EJECTED = auto()  # its worker has failed at requests; perhaps others would have too
    SUSPECT = auto()  # its worker is silent; perhaps it only takes a breath


_TIERS: Final = (Tier.LOCAL, Tier.REMOTE)  # that a policy chooses in


class Choice(msgspec.Struct, frozen=True):
    replica: Replica
    tier: Tier


class Room(msgspec.Struct, frozen=True):
    """What the replicas take together, those that are silent or ejected left out."""

    places: int = 0  # rows of a tensor model, or generations
    requests: int = 0
    is_free: bool = False  # has one of them room for another request now?


NO_ROOM: Final = Room()


class Pool:
    """Every event of a replica or its worker is told to :meth:`changed`, so that a choice need not look at all."""

    def __init__(self, *, zone: str, chance: random.Random) -> None:
        self.zone = zone  # of the coordinator; empty: all zones are alike
        self._chance = chance
        self._balancing = ""  # the name of the policy
        self._tiers: tuple[tuple[Tier, Policy], ...] = ()  # the local one and the remote one, once there is a policy
        self._replicas: dict[WorkerId, Replica] = {}
        self._serving: dict[Replica, None] = {}
        self._suspects: dict[Replica, None] = {}  # that serve and have room
        self._parked: dict[Replica, None] = {}  # ejected when they were last looked at
        self._growing: dict[Replica, None] = {}  # whose share time alone will change
        self._weighed = 0.0  # when their paces were last compared
        self._counted: dict[Replica, tuple[int, int]] = {}  # places and requests of each in the sums
        self._free: set[Replica] = set()  # some of those
        self._places = 0
        self._requests = 0
        self.room = NO_ROOM  # what they take together

    def __len__(self) -> int:
        return len(self._replicas)

    def __iter__(self) -> Iterator[Replica]:
        return iter(self._replicas.values())

    # -- events

    def add(self, replica: Replica) -> None:
        replica.pool = self
        self._replicas[replica.worker_id] = replica
        self.changed(replica)

    def remove(self, replica: Replica) -> None:
        replica.pool = None
        if self._replicas.get(replica.worker_id) is replica:
            del self._replicas[replica.worker_id]
        self._serving.pop(replica, None)
        self._growing.pop(replica, None)
        self._take_out(replica)
        self._count(replica)

    def changed(self, replica: Replica) -> None:
        """Its model's state, or its worker's state or load."""
        if not replica.is_serving:
            self._serving.pop(replica, None)
            self._take_out(replica)
            self._count(replica)
            return
        self._serving[replica] = None
        if not replica.is_known:
            replica.is_known = True
            self._growing[replica] = None
        self._seat(replica)
        self._count(replica)

    def loaded(self, replica: Replica) -> None:
        """Its worker has more requests or fewer, and room as before."""
        if self._tiers:
            self._policy(replica).loaded(replica)

    def unsettled(self, replica: Replica) -> None:
        """Its share will change with time."""
        replica.assessed = float("-inf")
        self._growing[replica] = None

    def weigh(self, now: float) -> None:
        """Compare how fast they answer; call it each second or so."""
        elapsed, self._weighed = min(now - self._weighed, 1.0), now
        usual = usual_seconds([replica.pace for replica in self._serving])
        for replica in list(self._serving):
            if replica.pace.weigh(usual, elapsed):
                replica.assess(now)
                self.changed(replica)

    # -- choices

    @property
    def serving(self) -> int:
        """Replicas that answer, those that are full or ejected included."""
        return len(self._serving)

    def usable(self, excluded: Collection[WorkerId] = ()) -> int:
        """Replicas that may be asked, or might if they had room: those that serve and are neither ejected, when they
        were last looked at, nor silent."""
        usable = len(self._serving) - len(self._parked) - len(self._suspects)
        if not excluded:
            return usable
        tried = [replica for worker_id in excluded if (replica := self._replicas.get(worker_id)) in self._serving]
        out = sum(replica not in self._parked and replica not in self._suspects for replica in tried)
        return usable - out

    def choose(
        self, balancing: str, health: Health, now: float, *, excluded: Container[WorkerId] = (), suspects: bool = False
    ) -> Choice | None:
        """A replica that can take a request. ``suspects``: if there is no other, one whose worker is ejected for its
        answers, or else silent.

        ``balancing`` is a name in :data:`POLICIES`.
        """
        if balancing != self._balancing:
            self._balance_by(balancing)
        if self._growing or self._parked:
            self._tend(health, now, _TENDED)
        choice = self._choose(health, now, excluded)
        if choice is None and len(self._parked) > _TENDED:
            self._tend(health, now, len(self._parked))
            choice = self._choose(health, now, excluded)
        if choice is None and suspects:
            return self._choose_ejected(health, now, excluded) or self._choose_suspect(health, now, excluded)
        return choice

    def _choose(self, health: Health, now: float, excluded: Container[WorkerId]) -> Choice | None:
        for tier, policy in self._tiers:
            while (replica := policy.choose(now, excluded)) is not None:
                if health.available(replica.worker_id, replica.part, now):
                    return Choice(replica, tier)
                policy.discard(replica)
                self._parked[replica] = None
                self._count(replica)
        return None

    def _choose_ejected(self, health: Health, now: float, excluded: Container[WorkerId]) -> Choice | None:
        """A few requests that no worker can answer would otherwise take all of them from everybody."""
        able = (one for one in self._parked if one.worker_id not in excluded and health.is_back(one.worker_id, now))
        replica = min(able, key=lambda one: one.load, default=None)
        return None if replica is None else Choice(replica, Tier.EJECTED)

    def _choose_suspect(self, health: Health, now: float, excluded: Container[WorkerId]) -> Choice | None:
        for replica in self._suspects:
            if replica.worker_id not in excluded and health.available(replica.worker_id, replica.part, now):
                return Choice(replica, Tier.SUSPECT)
        return None

    # -- who is with the policy

    def _policy(self, replica: Replica) -> Policy:
        return self._tiers[0 if not self.zone or replica.worker.zone == self.zone else 1][1]

    def _balance_by(self, balancing: str) -> None:
        self._balancing = balancing
        make = POLICIES[balancing]
        self._tiers = tuple((tier, make(self._chance)) for tier in _TIERS)
        for replica in self._serving:
            self._seat(replica)

    def _seat(self, replica: Replica) -> None:
        if not replica.has_room:
            self._take_out(replica)
        elif replica.worker.suspect:
            self._take_out(replica)
            self._suspects[replica] = None
        elif replica not in self._parked:
            self._suspects.pop(replica, None)
            if self._tiers:
                self._policy(replica).put(replica)

    def _take_out(self, replica: Replica) -> None:
        self._parked.pop(replica, None)
        self._suspects.pop(replica, None)
        if self._tiers:
            self._policy(replica).discard(replica)

    def _tend(self, health: Health, now: float, at_most: int) -> None:
        """Let the shares of some grow, and some of the parked back whose ejection is over."""
        for _ in range(min(_TENDED, len(self._growing))):
            replica = next(iter(self._growing))
            if now < replica.assessed + STEP:
                break  # the others were assessed later still
            del self._growing[replica]
            has_grown = replica.assess(now)
            if replica.pool is self:
                self.changed(replica)
                if not has_grown:
                    self._growing[replica] = None
        for _ in range(min(at_most, len(self._parked))):
            replica = next(iter(self._parked))
            del self._parked[replica]
            if health.available(replica.worker_id, replica.part, now):
                self._seat(replica)
                self._count(replica)
            else:
                self._parked[replica] = None

    # -- what they take together

    def _count(self, replica: Replica) -> None:
        counts = replica in self._serving and not replica.worker.suspect and replica not in self._parked
        places, requests = (replica.places, replica.worker.capacity) if counts else (0, 0)
        before = self._counted.get(replica, (0, 0))
        self._places += places - before[0]
        self._requests += requests - before[1]
        if counts:
            self._counted[replica] = places, requests
        else:
            self._counted.pop(replica, None)
        if counts and replica.has_room:
            self._free.add(replica)
        else:
            self._free.discard(replica)
        self.room = Room(self._places, self._requests, bool(self._free))
