"""What a routing decision costs in fleets of different sizes: `python benchmarks/routing.py`.

One decision here is all that a request costs: choose a replica, count the request in, and count it out again when it
ends. As many requests as half of the fleet's capacity are in flight all the time, and each hundredth decision comes
with a report of some worker.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections import deque

from shoal.cluster import Membership
from shoal.config import ModelConfig
from shoal.load_balancer import POLICIES, Health
from shoal.messages import Load, ModelInfo, Register, Resources, Status
from shoal.model_registry import ModelSpec
from shoal.router import route
from shoal.types import ModelKind, ModelName, ModelState, WorkerId, WorkerState

SIZES = (2, 10, 100, 1000)
DECISIONS = 4000  # of one round
ROUNDS = 5
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


def measure(policy: str, size: int) -> list[float]:
    """Seconds a decision, one figure a round."""
    chance = random.Random(size)
    members, health = fleet(size, chance), Health()
    spec = ModelSpec(name=MODEL.name, kind=MODEL.kind, settings=ModelConfig(balancing=policy))  # type: ignore[arg-type]
    by_id = {member.worker_id: member for member in members.members()}
    names = list(by_id)
    running: deque[WorkerId] = deque()
    at = 100.0

    def decide(count: int) -> None:
        nonlocal at
        for number in range(count):
            at += 0.001
            decision = route(spec, fleet=members, health=health, now=at)
            member = by_id[decision.worker_id]
            attempt = health.begin(decision.worker_id, at)
            place = member.occupied()
            place.__enter__()
            places.append(place)
            del attempt
            if len(places) > size * CAPACITY // 2:
                places.popleft().__exit__(None, None, None)
            if number % 100 == 0:
                told = by_id[chance.choice(names)]
                members.reported(
                    told,
                    Status(told.worker_id, WorkerState.READY, Load(in_flight=told.in_flight), (MODEL,)),
                    at,
                )

    from contextlib import AbstractContextManager

    places: deque[AbstractContextManager[None]] = deque()
    del running
    decide(size * CAPACITY)
    rounds = []
    for _ in range(ROUNDS):
        gc.collect()
        began = time.perf_counter()
        decide(DECISIONS)
        rounds.append((time.perf_counter() - began) / DECISIONS)
    return rounds


def main() -> None:
    print(f"{'policy':>22} " + " ".join(f"{size:>7}" for size in SIZES) + f"   {SIZES[-1]}/{SIZES[0]}")
    for policy in POLICIES:
        figures = [statistics.median(measure(policy, size)) for size in SIZES]
        row = " ".join(f"{figure * 1e6:>7.1f}" for figure in figures)
        print(f"{policy:>22} {row}   {figures[-1] / figures[0]:.2f}   µs a decision")


if __name__ == "__main__":
    main()
