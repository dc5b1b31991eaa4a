"""Which balancing policy suits which fleet, simulated: `python benchmarks/balancing.py [--requests 20000] [--seed 0]`.

The coordinators' own code decides; arrivals, queues and service times are events on a clock of numbers, so the same
seed gives the same table on every machine. Requests come at random (Poisson) and take 50 ms on the mean (exponential)
on one of a replica's four slots, before which they queue.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import get_args

from shoal.cluster import Member, Membership
from shoal.config import Balancing, ModelConfig
from shoal.load_balancer import Health
from shoal.messages import Load, ModelInfo, Register, Resources, Status
from shoal.model_registry import ModelSpec
from shoal.router import route
from shoal.types import ModelKind, ModelName, ModelPart, ModelState, WorkerId, WorkerState

MEAN = 0.05  # seconds of one request on a replica of speed 1
SLOTS = 4
CAPACITY = 256
MODEL = ModelInfo(ModelName("model"), ModelKind.TENSOR, ModelState.READY)
PART = MODEL.part


@dataclass(frozen=True)
class Scenario:
    name: str
    speeds: tuple[float, ...]
    load: float  # of all capacity
    weights: tuple[float, ...] = ()  # as configured; none: all the same
    coordinators: int = 1
    report: float = 0.02  # seconds between a worker's reports
    slow_from: float | None = None  # when the first replica becomes ten times slower, in seconds
    joins_at: float | None = None  # when the last replica comes; for 5 s from then on it is five times slower


SCENARIOS = (
    Scenario("ten alike", (1.0,) * 10, 0.8),
    Scenario("five fast, five slow, weighted", (1.6,) * 5 + (0.4,) * 5, 0.8, (4.0,) * 5 + (1.0,) * 5),
    Scenario("five fast, five slow, not weighted", (1.6,) * 5 + (0.4,) * 5, 0.8),
    Scenario("one straggler of ten", (1.0,) * 10, 0.6, slow_from=10.0),
    Scenario("a cold newcomer", (1.0,) * 10, 0.6, joins_at=10.0),
    Scenario("eight coordinators", (1.0,) * 10, 0.8, coordinators=8),
    Scenario("eight coordinators, reports each 0.5 s", (1.0,) * 10, 0.8, coordinators=8, report=0.5),
)


@dataclass
class Replica:
    worker_id: WorkerId
    speed: Callable[[float], float]
    running: int = 0
    waiting: deque[Request] = field(default_factory=deque)
    served: int = 0

    @property
    def in_flight(self) -> int:
        return self.running + len(self.waiting)


@dataclass
class Request:
    arrived: float
    work: float  # seconds at speed 1
    coordinator: Coordinator
    replica: Replica
    member: Member


class Coordinator:
    def __init__(self, policy: Balancing, seed: int) -> None:
        self._fleet = Membership(heartbeat_interval=1.0, chance=random.Random(seed))
        self._health = Health()
        self._spec = ModelSpec(name=MODEL.name, kind=MODEL.kind, settings=ModelConfig(balancing=policy))

    def register(self, worker_id: WorkerId, weight: float, at: float) -> None:
        self._fleet.registered(
            Register(worker_id, "1", "host:1", CAPACITY, Resources(), WorkerState.READY, (MODEL,), weight=weight),
            at,
        )

    def told(self, replica: Replica, at: float) -> None:
        for member in self._fleet.members():
            if member.worker_id == replica.worker_id:
                load = Load(in_flight=replica.in_flight)
                self._fleet.reported(member, Status(replica.worker_id, WorkerState.READY, load, (MODEL,)), at)

    def send(self, at: float) -> Member:
        decision = route(self._spec, fleet=self._fleet, health=self._health, now=at)
        member = next(member for member in self._fleet.members() if member.worker_id == decision.worker_id)
        member.changed_by(1)
        return member

    def answered(self, request: Request, at: float) -> None:
        request.member.changed_by(-1)
        if replica := request.member.replicas.get(ModelPart(MODEL.id)):
            replica.latency.observe(at - request.arrived, at)


class Simulation:
    def __init__(self, scenario: Scenario, policy: Balancing, seed: int) -> None:
        self._scenario = scenario
        self._chance = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._number = itertools.count()
        self._coordinators = [Coordinator(policy, seed + index) for index in range(scenario.coordinators)]
        self._replicas: dict[WorkerId, Replica] = {}
        self.latencies: list[float] = []
        for index in range(len(scenario.speeds)):
            last = index == len(scenario.speeds) - 1
            self._at(scenario.joins_at or 0.0 if last else 0.0, lambda at, index=index: self._join(index, at))  # type: ignore[misc]

    @property
    def spread(self) -> float:
        """The busiest replica's requests for its speed, over the mean of all."""
        shares = [
            replica.served / speed
            for replica, speed in zip(self._replicas.values(), self._scenario.speeds, strict=False)
        ]
        return max(shares) * len(shares) / sum(shares)

    def run(self, requests: int) -> None:
        rate = self._scenario.load * sum(self._scenario.speeds) * SLOTS / MEAN
        arrival = 0.0
        for _ in range(requests):
            arrival += self._chance.expovariate(rate)
            self._at(arrival, self._arrive)
        while self._events and len(self.latencies) < requests:
            at, _, act = heapq.heappop(self._events)
            act(at)

    def _at(self, at: float, act: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (at, next(self._number), act))

    def _join(self, index: int, at: float) -> None:
        worker_id = WorkerId(f"worker-{index}")
        replica = self._replicas[worker_id] = Replica(worker_id, lambda now: self._speed(index, now))
        weight = self._scenario.weights[index] if self._scenario.weights else 1.0
        for coordinator in self._coordinators:
            coordinator.register(worker_id, weight, at)
        self._at(at + self._chance.uniform(0, self._scenario.report), lambda now: self._report(replica, now))

    def _report(self, replica: Replica, at: float) -> None:
        for coordinator in self._coordinators:
            coordinator.told(replica, at)
        self._at(at + self._scenario.report, lambda now: self._report(replica, now))

    def _speed(self, index: int, now: float) -> float:
        scenario, speed = self._scenario, self._scenario.speeds[index]
        if index == 0 and scenario.slow_from is not None and now >= scenario.slow_from:
            return speed / 10
        is_cold = scenario.joins_at is not None and now < scenario.joins_at + 5.0
        return speed / 5 if is_cold and index == len(scenario.speeds) - 1 else speed

    def _arrive(self, at: float) -> None:
        coordinator = self._chance.choice(self._coordinators)
        member = coordinator.send(at)
        replica = self._replicas[member.worker_id]
        replica.waiting.append(Request(at, self._chance.expovariate(1 / MEAN), coordinator, replica, member))
        self._begin(replica, at)

    def _begin(self, replica: Replica, at: float) -> None:
        while replica.waiting and replica.running < SLOTS:
            request = replica.waiting.popleft()
            replica.running += 1
            self._at(at + request.work / replica.speed(at), lambda now, request=request: self._end(request, now))  # type: ignore[misc]

    def _end(self, request: Request, at: float) -> None:
        request.replica.running -= 1
        request.replica.served += 1
        request.coordinator.answered(request, at)
        self.latencies.append(at - request.arrived)
        self._begin(request.replica, at)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for scenario in SCENARIOS:
        print(f"\n{scenario.name}, {scenario.load:.0%} load\n{'':>22}{'p50 ms':>9}{'p99 ms':>9}{'spread':>9}")
        for policy in get_args(Balancing):
            simulation = Simulation(scenario, policy, arguments.seed)
            simulation.run(arguments.requests)
            latencies = sorted(simulation.latencies)
            p50, p99 = (latencies[int(len(latencies) * share)] * 1e3 for share in (0.5, 0.99))
            print(f"{policy:>22}{p50:>9.0f}{p99:>9.0f}{simulation.spread:>9.2f}", flush=True)


if __name__ == "__main__":
    main()
