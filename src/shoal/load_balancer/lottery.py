"""Replicas drawn at random, each as often as its weight says."""

from __future__ import annotations

import random
from collections.abc import Container
from typing import Final

from shoal.load_balancer.replica import Replica
from shoal.types import WorkerId

_BLANKS: Final = 4  # useless draws, until what was drawn in vain is taken out for this once
_TICKETS: Final = 1024  # for a weight of 1: whole numbers do not drift as sums of floats do


class Lottery:
    """A binary indexed tree (Fenwick 1994) over the numbers of tickets: adding, weighing and drawing are O(log n)."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._tree = [0, 0]  # from 1; its last index is a power of two and holds the sum of all
        self._held: list[Replica | None] = [None]  # by seat, from 0
        self._tickets = [0]
        self._seats: dict[Replica, int] = {}
        self._free = [0]

    def put(self, replica: Replica, weight: float) -> None:
        """Add it, or weigh it anew."""
        seat = self._seats.get(replica)
        if seat is None:
            if not self._free:
                self._grow()
            seat = self._seats[replica] = self._free.pop()
            self._held[seat] = replica
        self._set(seat, max(1, round(weight * _TICKETS)))

    def discard(self, replica: Replica) -> None:
        seat = self._seats.pop(replica, None)
        if seat is not None:
            self._set(seat, 0)
            self._held[seat] = None
            self._free.append(seat)

    def draw(self, count: int, excluded: Container[WorkerId]) -> list[Replica]:
        """So many different ones whose workers are not excluded, or as many as there are."""
        drawn: list[Replica] = []
        aside: list[tuple[int, int]] = []
        blanks = 0
        while len(drawn) < count and self._tree[-1]:
            seat = self._seat_of(int(self._chance.random() * self._tree[-1]))
            replica = self._held[seat]
            assert replica is not None
            if replica not in drawn and replica.worker_id not in excluded:
                drawn.append(replica)
            elif (blanks := blanks + 1) > _BLANKS:
                aside.append((seat, self._tickets[seat]))
                self._set(seat, 0)
        for seat, tickets in aside:
            self._set(seat, tickets)
        return drawn

    def _seat_of(self, ticket: int) -> int:
        tree, seat = self._tree, 0
        step = len(tree) // 2 if len(tree) > 2 else 0
        while step:
            if tree[seat + step] <= ticket:
                seat += step
                ticket -= tree[seat]
            step >>= 1
        return seat

    def _set(self, seat: int, tickets: int) -> None:
        difference = tickets - self._tickets[seat]
        self._tickets[seat] = tickets
        tree, index = self._tree, seat + 1
        while index < len(tree):
            tree[index] += difference
            index += index & -index

    def _grow(self) -> None:
        """Twice the seats. All of the old ones are below the middle, so only the last sum is new."""
        size = len(self._held)
        self._free = list(range(size, 2 * size))
        self._held += [None] * size
        self._tickets += [0] * size
        self._tree += [0] * (size - 1) + [self._tree[-1]]
