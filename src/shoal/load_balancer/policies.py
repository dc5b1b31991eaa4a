"""Which replica of a model takes the next request. A policy is a class here and a line in :data:`POLICIES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Protocol

import msgspec

from shoal.types import WorkerId, WorkerState


class Replica(msgspec.Struct, frozen=True):
    """What a policy sees of one loaded copy of a model."""

    worker_id: WorkerId
    state: WorkerState
    capacity: int  # requests its worker takes at a time
    in_flight: int  # requests its worker has
    load_age: float = 0.0  # seconds since the worker told its load
    zone: str = ""

    @property
    def has_room(self) -> bool:
        return self.in_flight < self.capacity


class Policy(Protocol):
    name: str

    def choose(self, replicas: Sequence[Replica], now: float) -> Replica | None:
        """One of the eligible replicas, or None when there is none. ``now`` is in seconds."""


def eligible(replicas: Sequence[Replica]) -> list[Replica]:
    """Those that may be given a request: ready, and with room for one."""
    return [replica for replica in replicas if replica.state is WorkerState.READY and replica.has_room]


class LeastConnections:
    """The replica that is least busy for its size; among equals the one whose last turn is the longest ago.

    Only turns decide among equals, so the same sequence of calls always gives the same answers.
    """

    name = "least_connections"
    _REMEMBERED: Final = 4096  # workers; one that is forgotten counts as never chosen

    def __init__(self) -> None:
        self._turn = 0
        self._last_turn: dict[WorkerId, int] = {}  # the longest ago first

    def choose(self, replicas: Sequence[Replica], now: float) -> Replica | None:
        last_turn = self._last_turn
        chosen = min(
            eligible(replicas),
            key=lambda replica: (replica.in_flight / replica.capacity, last_turn.get(replica.worker_id, 0)),
            default=None,
        )
        if chosen is not None:
            self._turn += 1
            last_turn.pop(chosen.worker_id, None)
            last_turn[chosen.worker_id] = self._turn
            if len(last_turn) > self._REMEMBERED:
                del last_turn[next(iter(last_turn))]
        return chosen


POLICIES: Final[Mapping[str, Callable[[], Policy]]] = MappingProxyType({LeastConnections.name: LeastConnections})
