"""Which replica of a model takes the next request. A policy is a class here and a line in :data:`POLICIES`.

A policy holds the replicas that can take a request now. It is told of every change, so that choosing costs O(log n).
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Mapping
from types import MappingProxyType
from typing import ClassVar, Final

from shoal.load_balancer.lottery import Lottery
from shoal.load_balancer.ranking import Key, Ranking
from shoal.load_balancer.replica import Replica
from shoal.types import WorkerId


class Policy(ABC):
    name: ClassVar[str]

    @abstractmethod
    def put(self, replica: Replica) -> None:
        """It can take requests, or its load or share has changed."""

    def loaded(self, replica: Replica) -> None:
        """Its load alone has changed. Twice for each request, so who minds should put off what that means."""

    @abstractmethod
    def discard(self, replica: Replica) -> None:
        """It can take none. Harmless when it is not there."""

    @abstractmethod
    def choose(self, now: float, excluded: Container[WorkerId] = ()) -> Replica | None:
        """One whose worker is not excluded, or None when there is none. ``now`` is in seconds."""


class _Turns(Policy):
    """Stride scheduling (Waldspurger and Weihl 1995): each turn of a replica puts its next one a stride further, and
    the one whose turn is the earliest comes first. Who was away does not get the turns it has missed."""

    def __init__(self, chance: random.Random) -> None:
        self._ranking = Ranking()
        self._stale: dict[Replica, None] = {}  # whose turn or load has changed since they were ranked
        self._turn = 0.0  # the latest that was taken

    def put(self, replica: Replica) -> None:
        if replica not in self._ranking:
            replica.turn = max(replica.turn, self._turn)
            self._ranking.put(replica, self._key(replica))

    def discard(self, replica: Replica) -> None:
        self._stale.pop(replica, None)
        self._ranking.discard(replica)

    def choose(self, now: float, excluded: Container[WorkerId] = ()) -> Replica | None:
        if (only := self._ranking.only()) is not None:  # there is nobody to take turns with
            return None if only.worker_id in excluded else only
        if self._stale:
            self._rank()
        replica = self._ranking.first(excluded)
        if replica is not None:
            replica.turn = max(replica.turn, self._turn)
            self._turn = replica.turn
            replica.turn += self._stride(replica)
            self._stale[replica] = None  # it is not ranked at once, for its load is about to change too
        return replica

    def _rank(self) -> None:
        for replica in self._stale:
            if replica in self._ranking:
                self._ranking.put(replica, self._key(replica))
        self._stale.clear()

    def _key(self, replica: Replica) -> Key:
        return (replica.turn,)

    def _stride(self, replica: Replica) -> float:
        return 1 / (replica.size * replica.share)


class RoundRobin(_Turns):
    """Each in turn, whatever its size; newcomers miss some turns."""

    name = "round_robin"

    def _stride(self, replica: Replica) -> float:
        return 1 / replica.share


class WeightedRoundRobin(_Turns):
    """Each as often as its size says, as evenly spread as by nginx's smooth weighted round robin, which takes O(n)."""

    name = "weighted_round_robin"


class LeastConnections(_Turns):
    """The replica with the fewest requests for its size; equals take turns, each as often as its size says. Those at
    which a request would only wait come last, whatever their size.

    Only turns decide among equals, so the same sequence of calls always gives the same answers.
    """

    name = "least_connections"

    def loaded(self, replica: Replica) -> None:
        self._stale[replica] = None

    def put(self, replica: Replica) -> None:
        if replica not in self._ranking:
            replica.turn = max(replica.turn, self._turn)
        self._ranking.put(replica, self._key(replica))

    def _key(self, replica: Replica) -> Key:
        return (replica.is_busy, replica.load / replica.share, replica.turn)


class _Drawn(Policy):
    """Some are drawn, each as likely as its size says; the cheapest of them is taken."""

    draws: ClassVar[int]

    def __init__(self, chance: random.Random) -> None:
        self._lottery = Lottery(chance)

    def put(self, replica: Replica) -> None:
        self._lottery.put(replica, replica.size * replica.share)

    def discard(self, replica: Replica) -> None:
        self._lottery.discard(replica)

    def choose(self, now: float, excluded: Container[WorkerId] = ()) -> Replica | None:
        drawn = self._lottery.draw(self.draws, excluded)
        return min(drawn, key=lambda replica: self._cost(replica, now), default=None)

    def _cost(self, replica: Replica, now: float) -> float:
        return 0.0


class Random(_Drawn):
    name = "random"
    draws = 1


class PowerOfTwo(_Drawn):
    """The less busy of two (Mitzenmacher 2001). Coordinators that see each other's requests late do not all run to
    the same replica."""

    name = "power_of_two"
    draws = 2

    def _cost(self, replica: Replica, now: float) -> float:
        return replica.load


class LeastLatency(_Drawn):
    """Of two, the one whose latency times its requests is less, as in Finagle's peak EWMA balancer.

    One that has requests but has answered none yet may be slow without bound, and gets more only beside its like.
    """

    name = "least_latency"
    draws = 2
    _UNKNOWN: Final = 1e6  # seconds

    def _cost(self, replica: Replica, now: float) -> float:
        in_flight = replica.worker.in_flight
        if not replica.latency.is_known:
            return self._UNKNOWN * in_flight
        return replica.latency.seconds(now) * (in_flight + 1)


POLICIES: Final[Mapping[str, Callable[[random.Random], Policy]]] = MappingProxyType(
    {
        policy.name: policy
        for policy in (RoundRobin, LeastConnections, Random, LeastLatency, PowerOfTwo, WeightedRoundRobin)
    }
)
