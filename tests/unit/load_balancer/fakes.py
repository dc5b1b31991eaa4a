"""Workers as balancing sees them, without anything behind them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from shoal.load_balancer import Health, Pool, Reliability, Replica
from shoal.load_balancer.replica import SLOW_START
from shoal.messages import ModelInfo
from shoal.types import ModelKind, ModelName, ModelState, WorkerId, WorkerState

FISH = ModelInfo(ModelName("fish"), ModelKind.GENERATE, ModelState.READY)


@dataclass(eq=False)
class FakeWorker:
    worker_id: WorkerId
    capacity: int = 10
    in_flight: int = 0
    weight: float = 1.0
    zone: str = ""
    state: WorkerState = WorkerState.READY
    suspect: bool = False
    reason: str = ""
    reliability: Reliability = field(default_factory=Reliability)


def grown(worker: FakeWorker) -> Replica:
    """A replica that is not new any more."""
    replica = Replica(worker, FISH)
    replica.assess(0.0)
    replica.assess(SLOW_START)
    replica.is_known = True
    return replica


class Waters:
    """A pool and the workers in it, by name."""

    def __init__(self, balancing: str = "least_connections", *, zone: str = "", seed: int = 0) -> None:
        self.balancing = balancing
        self.health = Health()
        self.pool = Pool(zone=zone, chance=random.Random(seed))
        self.workers: dict[str, FakeWorker] = {}
        self.replicas: dict[str, Replica] = {}

    def add(self, name: str, *, new: bool = False, **what: object) -> Replica:
        worker = FakeWorker(WorkerId(name), **what)  # type: ignore[arg-type]
        replica = Replica(worker, FISH) if new else grown(worker)
        self.workers[name], self.replicas[name] = worker, replica
        self.pool.add(replica)
        return replica

    def change(self, name: str, **what: object) -> None:
        for name_of, value in what.items():
            setattr(self.workers[name], name_of, value)
        self.pool.changed(self.replicas[name])

    def choose(self, now: float = 100.0, *, excluded: str = "", suspects: bool = False) -> str | None:
        tried = {WorkerId(name) for name in excluded.split()}
        choice = self.pool.choose(self.balancing, self.health, now, excluded=tried, suspects=suspects)
        return choice.replica.worker_id if choice else None

    def ask(self, now: float = 100.0) -> str | None:
        """Choose, and give the chosen one the request."""
        name = self.choose(now)
        if name is not None:
            self.change(name, in_flight=self.workers[name].in_flight + 1)
        return name
