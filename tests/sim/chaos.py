"""A fleet of up to hundreds of workers under random faults: what must hold whatever happens, for any seed.

The coordinator and the workers are the real ones; see :mod:`sim.simulation`. Thousands of seeds::

    PYTHONPATH=tests python -m sim.chaos --seeds 2000
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import get_args

from sim.simulation import MODEL, STEP, Fleet, fleet, simulate

from shoal.clock import now
from shoal.config import Balancing, ModelConfig
from shoal.errors import DeadlineExceeded, EngineFailed, ShoalError
from shoal.messages import Generate
from shoal.model_registry import ModelSpec
from shoal.types import ModelKind, RequestId, Sampling, TextPrompt

logger = logging.getLogger("shoal")

REQUESTS = 150
SPREAD = 5.0  # seconds over which they come
SIZES = (8, 30, 100, 250)  # workers
MAX_IN_FLIGHT = 100
BUSY = 0.4  # seconds a token takes on a worker that has much to do; it is not to be taken for dead
NOTICED = 1.0  # seconds until a worker in silence is out of rotation
LATE = 0.5  # seconds after its deadline that a request may end
LOOK = 0.1  # seconds


def worker_id(host: str) -> str:
    return f"worker-{host}:9001"


@dataclass
class Asked:
    """One request and what came of it."""

    length: int
    timeout: float
    tokens: list[int] = field(default_factory=list)
    finished: int = 0  # parts that said that they are the last
    end: str = ""  # how it ended: finished, left, or an error's code
    took: float = 0.0


class Ear(logging.Handler):
    """Hears what the coordinator says of its workers."""

    def __init__(self, heard: Callable[[str, str], None]) -> None:
        super().__init__(logging.WARNING)
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        self._heard(getattr(record, "action", ""), getattr(record, "worker", ""))


class Chaos:
    """One life of a fleet. ``broken`` are the facts that must not be."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.size = self.chance.choice(SIZES)
        self.balancing: Balancing = self.chance.choice(get_args(Balancing))
        self.broken: list[str] = []
        self.asked: list[Asked] = []
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
        spec = ModelSpec(name=MODEL, kind=ModelKind.GENERATE, settings=ModelConfig(balancing=self.balancing))
        async with fleet(0, [spec], max_in_flight=MAX_IN_FLIGHT) as f:
            for number in range(self.size):
                await self._add(f, f"w{number}")
            await f.until_ready(self.size)
            side = [asyncio.create_task(work) for work in (self._trouble(f), self._watch(f))]
            await self._ask_all(f)
            for task in side:
                task.cancel()
            await asyncio.gather(*side, return_exceptions=True)
            for task in side:
                if not task.cancelled() and (error := task.exception()) is not None:
                    raise error
            await self._end(f)
        self._judge()

    async def _add(self, f: Fleet, host: str) -> None:
        fails = self.chance.random() < 0.03
        self._failing += fails
        await f.add_worker(
            host,
            capacity=self.chance.choice((4, 16, 64)),
            breaks_at=self.chance.randint(0, 20) if fails else None,
            step=self.chance.choice((STEP, STEP, STEP, BUSY)),
        )

    # -- requests

    async def _ask_all(self, f: Fleet) -> None:
        tasks = []
        for number in range(REQUESTS):
            tasks.append(asyncio.create_task(self._ask(f, number)))
            await asyncio.sleep(self.chance.uniform(0, 2 * SPREAD / REQUESTS))
        _, hung = await asyncio.wait(tasks, timeout=120)
        self.broken += [f"{len(hung)} requests hang"] if hung else []
        await asyncio.gather(*tasks)

    async def _ask(self, f: Fleet, number: int) -> None:
        """Some clients have little time, some leave in the middle."""
        asked = Asked(self.chance.randint(1, 80), self.chance.choice((0.3, 60.0, 60.0, 60.0)))
        leaves_at = self.chance.randint(0, 40) if self.chance.random() < 0.1 else None
        self.asked.append(asked)
        request = Generate(RequestId(f"r{number}"), MODEL, TextPrompt("count"), Sampling(max_tokens=asked.length))
        began = now()
        try:
            async with aclosing(f.coordinator.plane.generate(request, timeout=asked.timeout)) as chunks:
                async for chunk in chunks:
                    asked.tokens += chunk.tokens
                    asked.finished += chunk.finish_reason is not None
                    if leaves_at is not None and len(asked.tokens) > leaves_at:
                        asked.end = "left"
                        return
            asked.end = "finished"
        except ShoalError as error:
            asked.end = error.code
        finally:
            asked.took = now() - began

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
            if member.worker_id == worker_id(host) and not member.suspect:
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

    # -- what must hold

    async def _watch(self, f: Fleet) -> None:
        while True:
            self.broken += self._over_bounds(f)
            await asyncio.sleep(LOOK)

    def _over_bounds(self, f: Fleet) -> Iterator[str]:
        hosts = {worker_id(host): host for host in f.workers}
        if f.coordinator.admission.in_flight > MAX_IN_FLIGHT:
            yield f"{f.coordinator.admission.in_flight} requests are let in"
        for member in f.coordinator.fleet.members():
            host = hosts[member.worker_id]
            if member.sent > member.capacity:
                yield f"{host} has {member.sent} requests, and room for {member.capacity}"
        for host, runtime in f.runtimes.items():
            if len(runtime.running) > 64:
                yield f"{host} runs {len(runtime.running)} requests"

    async def _end(self, f: Fleet) -> None:
        for host in f.workers:
            f.network.faults(host).heal()
            f.network.faults(host).delay = 0.0
        await asyncio.sleep(15)
        with suppress(StopIteration):
            self.broken.append(f"left behind: {next(self._left(f))}")

    def _left(self, f: Fleet) -> Iterator[str]:
        if f.coordinator.admission.in_flight:
            yield f"{f.coordinator.admission.in_flight} requests let in"
        for host, runtime in f.runtimes.items():
            if runtime.running:
                yield f"{host} computes {sorted(runtime.running)}"
        for member in f.coordinator.fleet.members():
            if member.sent or member.suspect:
                yield f"{member.worker_id} with {member.sent} requests, suspect: {member.suspect}"

    def _judge(self) -> None:
        for number, asked in enumerate(self.asked):
            self.broken += [f"request {number}: {wrong}" for wrong in self.wrong(asked)]

    def wrong(self, asked: Asked) -> Iterator[str]:
        if asked.tokens != list(range(len(asked.tokens))):
            yield f"its tokens are {asked.tokens}"
        if not asked.end:
            yield "it has no end"
        if asked.end == "finished" and (len(asked.tokens), asked.finished) != (asked.length, 1):
            yield f"{len(asked.tokens)} tokens of {asked.length}, {asked.finished} ends"
        if asked.took > asked.timeout + LATE:
            yield f"it took {asked.took:.1f} s and had {asked.timeout:g} s"
        if asked.end not in self._allowed(asked):
            yield f"it ended with {asked.end} after {asked.took:.2f} s"

    def _allowed(self, asked: Asked) -> set[str]:
        """Somebody can always go on; so an answer ends early only for what its client or three engines did."""
        allowed = {"finished", "left", "overloaded"}
        if asked.timeout < 1:
            allowed |= {DeadlineExceeded.code, "worker_lost"}
        if self._failing >= 3:
            allowed.add(EngineFailed.code)
        return allowed


def live(seed: int) -> tuple[int, list[str], Counter[str]]:
    """The seed, what was broken, and how the requests ended."""
    logger.propagate = False
    chaos = Chaos(seed)
    try:
        chaos.run()
    except Exception as error:  # a seed that cannot be played says so, and the others go on
        chaos.broken.append(repr(error))
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
