"""A fleet of up to hundreds of workers under random faults: what must hold whatever happens, for any seed.

The coordinator and the workers are the real ones; see :mod:`sim.simulation`. Who asks is in :mod:`sim.asking`, what
must hold of each request in :mod:`sim.verdict`. Thousands of seeds::

    PYTHONPATH=tests python -m sim.chaos --seeds 2000
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, get_args

from sim.asking import LENGTH, Asked, Crowd, TableRuntime, somebody
from sim.simulation import COORDINATOR, MODEL, STEP, TABLE, Fleet, NumbersRuntime, PartsRuntime, fleet, simulate
from sim.verdict import overtaken, starved, wrong

from shoal.client import AsyncClient
from shoal.clock import now
from shoal.config import Balancing, CoordinatorConfig, HedgeConfig, ModelConfig, TenantConfig
from shoal.model_registry import ModelSpec, Registry
from shoal.node import Coordinator
from shoal.types import ModelKind

logger = logging.getLogger("shoal")

REQUESTS = 100
SPREAD = 4.0  # seconds over which they come
SIZES = {4: 25, 8: 55, 30: 15, 100: 3, 250: 2}  # workers, and how often of a hundred
MAX_IN_FLIGHT = 70
MANY = 30  # requests at a time of the tenant that asks most
SHARES = {"many": TenantConfig(requests=MANY), "some": TenantConfig(weight=2), "seldom": TenantConfig(weight=4)}
CROWDED = 1.5  # times what the workers can do, that is asked of a crowded fleet
BUSY = 0.4  # seconds a token takes on a worker that has much to do; it is not to be taken for dead
NOTICED = 1.0  # seconds until a worker in silence is out of rotation
GONE = 15.0  # seconds until nothing is left of it all
LOOK = 0.1  # seconds
SECOND: Final = "second:9000"


def worker_id(host: str) -> str:
    return f"worker-{host}:9001"


class Ear(logging.Handler):
    """Hears what the coordinators say of their workers."""

    def __init__(self, heard: Callable[[str, str], None]) -> None:
        super().__init__(logging.WARNING)
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        self._heard(getattr(record, "action", ""), getattr(record, "worker", ""))


class Chaos:
    """One life of a fleet. ``broken`` are the facts that must not be."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.size = self.chance.choices(list(SIZES), list(SIZES.values()))[0]
        self.balancing: Balancing = self.chance.choice(get_args(Balancing))
        self.is_crowded = self.size <= 8 and self.chance.random() < 0.5
        self.stops = self.chance.random() < 0.2  # the coordinator does, in the middle; another one is left
        self.broken: list[str] = []
        self.asked: list[Asked] = []
        self.capacities: dict[str, int] = {}  # by host
        self._struck: set[str] = set()  # hosts something was done to
        self._failing = 0  # workers whose engine fails

    def run(self) -> None:
        ear = Ear(self._heard)
        logger.addHandler(ear)
        try:
            simulate(self._live())
        finally:
            logger.removeHandler(ear)

    def _heard(self, action: str, worker: str) -> None:
        if action == "worker_suspected" and worker not in self._struck:
            self.broken.append(f"{worker} works and is suspected")

    async def _live(self) -> None:
        async with self._fleet() as (f, client):
            crowd = Crowd(f, client)
            self.asked = crowd.asked
            side = [self._trouble(f), self._watch(f), self._cut_client(f), *([self._stop(f)] if self.stops else [])]
            tasks = [asyncio.create_task(work) for work in side]
            await self._ask_all(crowd)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for task in tasks:
                if not task.cancelled() and (error := task.exception()) is not None:
                    raise error
            await self._end(f)
        self._judge()

    @asynccontextmanager
    async def _fleet(self) -> AsyncGenerator[tuple[Fleet, AsyncClient]]:
        """With two coordinators, of which clients know the second for when the first stops."""
        numbers = ModelSpec(name=MODEL, kind=ModelKind.GENERATE, settings=ModelConfig(balancing=self.balancing))
        hedged = ModelConfig(balancing=self.balancing, hedge=HedgeConfig(quantile=0.7, share=0.2))
        specs = [numbers, ModelSpec(name=TABLE, kind=ModelKind.TENSOR, settings=hedged)]
        settings = {"max_in_flight": MAX_IN_FLIGHT, "drain_timeout": self.chance.choice((0.2, 1.0, 30.0))}
        async with AsyncExitStack() as stack:
            f = await stack.enter_async_context(fleet(0, specs, tenants=SHARES, **settings))
            if self.stops:
                second = Coordinator(CoordinatorConfig(), Registry(), f.network.at("second"))
                listener = await f.network.listen(SECOND, second.server.accept)
                second.start()
                stack.push_async_callback(second.stop)
                stack.callback(listener.close)
            for number in range(self.size):
                await self._add(f, f"w{number}")
            await f.until_ready(self.size)
            address = f"{COORDINATOR}, {SECOND}" if self.stops else COORDINATOR
            client = AsyncClient(address, timeout=60.0, network=f.network.at("client"))
            yield f, await stack.enter_async_context(client)

    async def _add(self, f: Fleet, host: str) -> None:
        fails = self.chance.random() < 0.03
        self._failing += fails
        capacity = self.capacities[host] = self.chance.choice((1, 2, 3) if self.is_crowded else (4, 16, 64))
        await f.add_worker(
            host,
            coordinators=(COORDINATOR, SECOND) if self.stops else (COORDINATOR,),
            capacity=capacity,
            breaks_at=self.chance.randint(0, 20) if fails else None,
            step=STEP if self.is_crowded else self.chance.choice((STEP, STEP, STEP, BUSY)),
            others=(TableRuntime(self.chance), PartsRuntime()),
        )

    # -- requests

    async def _ask_all(self, crowd: Crowd) -> None:
        spread = SPREAD
        if self.is_crowded:
            spread = REQUESTS * LENGTH / 2 * STEP / sum(self.capacities.values()) / CROWDED
        tasks = []
        for _ in range(REQUESTS):
            tasks.append(asyncio.create_task(crowd.ask(somebody(self.chance))))
            await asyncio.sleep(self.chance.uniform(0, 2 * spread / REQUESTS))
        _, hung = await asyncio.wait(tasks, timeout=120)
        self.broken += [f"{len(hung)} requests hang"] if hung else []
        await asyncio.gather(*tasks)

    # -- faults

    async def _trouble(self, f: Fleet) -> None:
        """At most half of the fleet is ever struck, so that there is always somebody to go on."""
        hosts = self.chance.sample(list(f.workers), self.size // 2)
        blows = (self._crash, self._silence, self._silence, self._cut, self._drain, self._delay)
        async with asyncio.TaskGroup() as group:
            for host in hosts:
                await asyncio.sleep(self.chance.uniform(0, 3 * SPREAD / len(hosts)))
                self._struck.add(worker_id(host))
                group.create_task(self.chance.choice(blows)(f, host))

    async def _crash(self, f: Fleet, host: str) -> None:
        f.crash(host)
        await self._heal(f, host)

    async def _silence(self, f: Fleet, host: str) -> None:
        f.network.faults(host).stall()
        began = now()
        await asyncio.sleep(NOTICED)
        for member in f.coordinator.fleet.members():
            if member.worker_id == worker_id(host) and not member.suspect and not f.coordinator.admission.closed:
                self.broken.append(f"{host} is silent since {began:.2f} and not suspected")
        await self._heal(f, host)

    async def _cut(self, f: Fleet, host: str) -> None:
        f.network.faults(host).cut()

    async def _delay(self, f: Fleet, host: str) -> None:
        f.network.faults(host).delay = self.chance.uniform(0.01, 0.4)
        await asyncio.sleep(self.chance.uniform(0.1, 3))
        f.network.faults(host).delay = 0.0

    async def _drain(self, f: Fleet, host: str) -> None:
        await f.workers[host].stop(timeout=self.chance.uniform(0, 1))

    async def _heal(self, f: Fleet, host: str) -> None:
        await asyncio.sleep(self.chance.uniform(0.1, 5))
        f.network.faults(host).heal()

    async def _cut_client(self, f: Fleet) -> None:
        for _ in range(self.chance.randint(0, 3)):
            await asyncio.sleep(self.chance.uniform(0.1, SPREAD))
            f.network.faults("client", "coordinator").cut()

    async def _stop(self, f: Fleet) -> None:
        await asyncio.sleep(self.chance.uniform(0, 2 * SPREAD))
        f.listener.close()
        await f.coordinator.stop()

    # -- what must hold

    async def _watch(self, f: Fleet) -> None:
        while True:
            self.broken += self._over_bounds(f)
            await asyncio.sleep(LOOK)

    def _over_bounds(self, f: Fleet) -> Iterator[str]:
        hosts = {worker_id(host): host for host in f.workers}
        if f.coordinator.admission.in_flight > MAX_IN_FLIGHT:
            yield f"{f.coordinator.admission.in_flight} requests are let in"
        if (many := sum(asked.tenant == "many" and not asked.end for asked in self.asked)) > MANY:
            yield f"{many} requests of one tenant are let in"
        for member in f.coordinator.fleet.members():
            host = hosts[member.worker_id]
            if member.sent > member.capacity:
                yield f"{host} has {member.sent} requests, and room for {member.capacity}"
        for host, runtimes in f.loaded.items():
            if (running := running_on(runtimes)) > self.capacities[host]:
                yield f"{host} runs {running} requests, and has room for {self.capacities[host]}"

    async def _end(self, f: Fleet) -> None:
        for host in f.workers:
            f.network.faults(host).heal()
            f.network.faults(host).delay = 0.0
        until = now() + GONE
        while (left := next(self._left(f), None)) is not None and now() < until:
            await asyncio.sleep(1)
        self.broken += [f"left behind: {left}"] if left else []

    def _left(self, f: Fleet) -> Iterator[str]:
        if f.coordinator.admission.in_flight:
            yield f"{f.coordinator.admission.in_flight} requests let in"
        for host, runtimes in f.loaded.items():
            if running := running_on(runtimes):
                yield f"{host} computes {running} requests"
        for member in f.coordinator.fleet.members():
            if member.sent or (member.suspect and not self.stops):
                yield f"{member.worker_id} with {member.sent} requests, suspect: {member.suspect}"

    def _judge(self) -> None:
        for number, asked in enumerate(self.asked):
            for what in wrong(asked, failing=self._failing, stopped=self.stops):
                self.broken.append(f"request {number} ({asked.kind.value}): {what}")
        self.broken += [*overtaken(self.asked), *starved(self.asked)]


def running_on(runtimes: tuple[NumbersRuntime, ...]) -> int:
    return sum(len(runtime.running) for runtime in runtimes)


def live(seed: int) -> tuple[int, list[str], Counter[str]]:
    """The seed, what was broken, and how the requests ended."""
    logger.propagate = False
    gc.disable()  # for a fifth of the time
    chaos = Chaos(seed)
    try:
        chaos.run()
    except Exception as error:  # a seed that cannot be played says so, and the others go on
        chaos.broken.append(repr(error))
    gc.collect()
    return seed, chaos.broken, Counter(asked.end for asked in chaos.asked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    began, ends, failed = time.monotonic(), Counter[str](), 0
    say: Callable[[str], None] = print
    with ProcessPoolExecutor(options.processes) as pool:
        for seed, broken, ended in pool.map(live, range(options.first, options.first + options.seeds)):
            ends += ended
            failed += bool(broken)
            if broken:
                say(f"seed {seed}: {'; '.join(broken[:5])}")
    say(f"{options.seeds} fleets, {ends.total()} requests, {failed} fleets broken, {time.monotonic() - began:.0f} s")
    say(", ".join(f"{number} {end}" for end, number in ends.most_common()))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
