"""What a routing decision costs in fleets of different sizes: `python benchmarks/routing.py`.

What is measured is all of a request's balancing: choose a replica, count the request in there, and out again when it
ends. Requests for half of the fleet's capacity are in flight all the time, and with each hundredth some worker reports.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections import deque
from collections.abc import Sequence
from typing import get_args

from shoal.cluster import Member, Membership
from shoal.config import Balancing, ModelConfig
from shoal.load_balancer import Health
from shoal.messages import Load, ModelInfo, Register, Resources, Status
from shoal.model_registry import ModelSpec
from shoal.router import route
from shoal.types import ModelKind, ModelName, ModelState, WorkerId, WorkerState

SIZES = (2, 10, 100, 1000)
REQUESTS = 1000  # of one round
ROUNDS = 20
CAPACITY = 16
MODEL = ModelInfo(ModelName("model"), ModelKind.TENSOR, ModelState.READY)


def fleet(size: int, chance: random.Random) -> Membership:
    """Workers of different weights in two zones."""
    members = Membership(heartbeat_interval=0.5, zone="a", chance=chance)
    for number in range(size):
        members.registered(
            Register(
                WorkerId(f"worker-{number}"),
                str(number),
                "127.0.0.1:9001",
                CAPACITY,
                Resources(),
                WorkerState.READY,
                (MODEL,),
                zone="ab"[number % 8 == 7],
                weight=chance.choice([0.5, 1.0, 2.0]),
            ),
            0.0,
        )
    return members


class Traffic:
    """Requests that come and go under one policy."""

    def __init__(self, policy: Balancing, size: int) -> None:
        self._chance = random.Random(size)
        self._fleet = fleet(size, self._chance)
        self._health = Health()
        self._spec = ModelSpec(name=MODEL.name, kind=MODEL.kind, settings=ModelConfig(balancing=policy))
        self._members = {member.worker_id: member for member in self._fleet.members()}
        self._names = list(self._members)
        self._running: deque[Member] = deque()
        self._most = size * CAPACITY // 2
        self._now = 100.0

    def pass_by(self, requests: int) -> None:
        for number in range(requests):
            self._now += 0.001
            decision = route(self._spec, fleet=self._fleet, health=self._health, now=self._now)
            member = self._members[decision.worker_id]
            member.changed_by(1)
            self._running.append(member)
            if len(self._running) > self._most:
                self._running.popleft().changed_by(-1)
            if number % 100 == 0:
                self._report(self._members[self._chance.choice(self._names)])

    def _report(self, member: Member) -> None:
        status = Status(member.worker_id, WorkerState.READY, Load(in_flight=member.in_flight), (MODEL,))
        self._fleet.reported(member, status, self._now)


def measure(policy: Balancing) -> list[float]:
    """Seconds a request in each size of fleet: the median of rounds that take turns."""
    fleets = [Traffic(policy, size) for size in SIZES]
    for traffic, size in zip(fleets, SIZES, strict=True):
        traffic.pass_by(size * CAPACITY)
    return [statistics.median(rounds) for rounds in zip(*(_round(fleets) for _ in range(ROUNDS)), strict=True)]


def _round(fleets: Sequence[Traffic]) -> list[float]:
    taken = []
    for traffic in fleets:
        gc.collect()
        began = time.perf_counter()
        traffic.pass_by(REQUESTS)
        taken.append((time.perf_counter() - began) / REQUESTS)
    return taken


def main() -> None:
    print("µs a request: one decision, counted in and out")
    print(f"{'replicas':>20} " + " ".join(f"{size:>7}" for size in SIZES) + f"   {SIZES[-1]}/{SIZES[0]}")
    for policy in get_args(Balancing):
        figures = measure(policy)
        row = " ".join(f"{figure * 1e6:>7.1f}" for figure in figures)
        print(f"{policy:>20} {row}   {figures[-1] / figures[0]:.2f}", flush=True)


if __name__ == "__main__":
    main()
