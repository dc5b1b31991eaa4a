"""More than a server can do: `python benchmarks/overload.py [--rounds 3] [--seconds 10]`.

`shoal serve` has a model that sleeps for a known time, so that its capacity is known and takes no processor time. It is
small, since at ten times it the clients have to share the machine. They ask over HTTP at a rate, whatever has become of
the earlier requests, and give each request a second; what is answered within it is good. In each round: as much as the
capacity, twice and ten times it; two tenants that both want more than their share; a polite tenant alone, and beside a
greedy one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil

from shoal.bench.http import HttpConnection
from shoal.bench.load import Open
from shoal.types import Tensors, TensorSpec

ROOT = Path(__file__).parent.parent
PORT = 9980
RUN = 0.2  # seconds of a batch, whatever is in it
ROWS = 4  # of a batch
WORKERS = 2
CAPACITY = WORKERS * ROWS / RUN  # requests a second
DEADLINE = 1.0  # seconds
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1]}]}).encode()
CONFIG = {
    "coordinator": {"port": PORT, "trusted_proxies": ["127.0.0.1"]},
    "serve": {"workers": WORKERS},
    "models": {"mill": {"uri": "benchmarks.overload:Mill", "batching": {"max_rows": ROWS}}},
    "tenants": {"gold": {"weight": 3}},
}


class Mill:
    inputs = (TensorSpec("x", "FP32", (-1, 1)),)
    outputs = (TensorSpec("y", "FP32", (-1, 1)),)

    def run(self, inputs: Tensors) -> Tensors:
        time.sleep(RUN)
        return {"y": inputs["x"] + np.float32(1)}


class Client(HttpConnection):
    """Sees whether a refusal says when to come back."""

    def __init__(self, tenant: str) -> None:
        headers = {"x-deadline-ms": str(round(DEADLINE * 1000))}
        super().__init__(urlsplit(f"http://127.0.0.1:{PORT}"), {**headers, **({"x-tenant": tenant} if tenant else {})})
        self.retry_after = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after":
            self.retry_after = int(value)


@dataclass
class Tally:
    """What became of a tenant's requests; times in seconds."""

    good: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)

    @property
    def sent(self) -> int:
        return len(self.good) + len(self.refused) + self.others.total()


async def ask(idle: list[Client], tenant: str, tally: Tally) -> None:
    client = idle.pop() if idle else Client(tenant)
    client.retry_after = 0
    began = time.perf_counter()
    try:
        status = await client.post("/v2/models/mill/infer", BODY, 10 * DEADLINE)
    except Exception as error:  # it is no answer, whatever it is
        tally.others[type(error).__name__] += 1
        return
    took = time.perf_counter() - began
    if status == 200 and took <= DEADLINE and json.loads(client.body)["outputs"][0]["data"] == [2.0]:
        tally.good.append(took)
    elif status == 429 and client.retry_after:
        tally.refused.append(took)
    else:
        tally.others[f"{status} after the deadline" if status == 200 else str(status)] += 1
    idle.append(client)


async def offer(rates: dict[str, float], seconds: float, seed: int) -> dict[str, Tally]:
    """Every tenant's requests at its rate, in times of the capacity."""
    tallies = {tenant: Tally() for tenant in rates}
    idle: defaultdict[str, list[Client]] = defaultdict(list)
    due = sorted(
        (at, tenant)
        for tenant, rate in rates.items()
        for at in Open(rate * CAPACITY, seconds).arrivals(random.Random(f"{seed} {tenant}"))
    )
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for at, tenant in due:
            if (pause := began + at - time.perf_counter()) > 0:
                await asyncio.sleep(pause)
            group.create_task(ask(idle[tenant], tenant, tallies[tenant]))
    for clients in idle.values():
        for client in clients:
            client.close()
    return tallies


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


@dataclass
class Figures:
    goodput: dict[float, float]  # of the capacity, by the load in times of it
    refusals: list[float]  # seconds
    weights: float  # what gold got, for what the other got
    polite: tuple[float, float]  # of its requests, how many were good: alone, and beside the greedy one
    slower: float  # the polite one's 99th percentile beside the greedy one, for that alone
    others: Counter[str]


def measure(seconds: float, seed: int) -> Figures:
    def run(rates: dict[str, float]) -> dict[str, Tally]:
        tallies = asyncio.run(offer(rates, seconds, seed))
        time.sleep(1)
        for tally in tallies.values():
            refusals.extend(tally.refused)
            others.update(tally.others)
        return tallies

    refusals: list[float] = []
    others: Counter[str] = Counter()
    goodput = {load: len(run({"": load})[""].good) / seconds / CAPACITY for load in (1.0, 2.0, 10.0)}
    both = run({"gold": 3.0, "plain": 3.0})
    alone = run({"polite": 0.3})["polite"]
    beside = run({"polite": 0.3, "greedy": 10.0})["polite"]
    return Figures(
        goodput,
        refusals,
        len(both["gold"].good) / max(1, len(both["plain"].good)),
        (len(alone.good) / alone.sent, len(beside.good) / beside.sent),
        quantile(beside.good, 0.99) / quantile(alone.good, 0.99),
        others,
    )


def report(number: int, found: Figures) -> None:
    loads = ", ".join(f"{load:g}x {share:.2f}" for load, share in found.goodput.items())
    print(f"round {number}: answered in time, for the capacity: {loads}; gold for plain {found.weights:.2f}")
    alone, beside = found.polite
    print(
        f"  polite: {alone:.3f} answered alone, {beside:.3f} beside a greedy one, p99 {found.slower:.2f} times as long"
    )
    p50, p99 = (quantile(found.refusals, share) * 1e3 for share in (0.5, 0.99))
    print(f"  {len(found.refusals)} refusals, p50 {p50:.1f} ms, p99 {p99:.1f} ms; others {dict(found.others)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    options = parser.parse_args()
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"capacity {CAPACITY:.0f} requests/s, {cores} cores, load before: {load:.2f}")
    rounds: list[Figures] = []
    with serving() as coordinator:
        asyncio.run(offer({"": 0.5}, 3.0, 0))  # warms up
        memory = [coordinator.memory_info().rss]
        for number in range(1, options.rounds + 1):
            rounds.append(measure(options.seconds, number))
            memory.append(coordinator.memory_info().rss)
            report(number, rounds[-1])
    ratios = [found.goodput[10.0] / max(found.goodput.values()) for found in rounds]
    print(f"goodput at 10x for its peak: {told(ratios)}")
    print(f"gold to plain, weights 3 to 1: {told([found.weights for found in rounds])}")
    refusals = [seconds for found in rounds for seconds in found.refusals]
    print(f"refusals: p99 {quantile(refusals, 0.99) * 1e3:.1f} ms, longest {max(refusals) * 1e3:.1f} ms")
    print("memory of the coordinator, MB: " + ", ".join(f"{size / 2**20:.0f}" for size in memory))


def told(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} (lowest {min(ratios):.2f}, highest {max(ratios):.2f})"


@contextlib.contextmanager
def serving() -> Iterator[psutil.Process]:
    """The coordinator's process."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "overload.yaml"
        file.write_text(json.dumps(CONFIG))
        command = [sys.executable, "-m", "shoal", "serve", "--config", str(file), "--log-level", "error"]
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL) as process:
            try:
                wait_until_ready()
                yield coordinator_of(psutil.Process(process.pid))
            finally:
                process.terminate()
                process.wait(60)


def coordinator_of(server: psutil.Process) -> psutil.Process:
    """Whoever listens at the port."""
    for process in (server, *server.children(recursive=True)):
        if any(one.laddr.port == PORT and one.status == psutil.CONN_LISTEN for one in process.net_connections("tcp")):
            return process
    raise SystemExit("nobody listens")


def wait_until_ready() -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=5) as answer:
                if f'shoal_workers{{state="ready"}} {float(WORKERS)}' in answer.read().decode():
                    return
        except OSError:
            pass
        time.sleep(0.1)
    raise SystemExit("the server did not become ready within a minute")


if __name__ == "__main__":
    main()
