"""Batching, in one process and without HTTP: `python benchmarks/batching.py [--rounds 5]`.

First the rule for when to wait, on a model that costs ``fixed + per_row · rows`` milliseconds and a clock that jumps,
so that the figures are the rule's alone. Then MiniLM on ONNX Runtime: 32 clients through a runtime, against a bare loop
over the same engine at batch 32.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from shoal.batcher import Batcher, BatchLimits, Release
from shoal.batcher.cost import Cost
from shoal.batcher.policy import Outlook
from shoal.clock import ManualClockLoop, now
from shoal.config import Config, ModelConfig, cache_folder
from shoal.engines.base import EngineOptions
from shoal.messages import Infer, Inferred
from shoal.model_registry import make_spec
from shoal.types import Array, ModelName, RequestId, Tensors
from shoal.worker.loading import tensor_parts, tensor_runtime
from shoal.worker.pipeline import TensorPipeline
from shoal.worker.runtime import TensorRuntime

ROWS = 32  # of a run at most
TEXT_TOKENS = 64
SECONDS = 5.0  # of the jumping clock

# -- the rule, on a clock that jumps


class Patient(Batcher):
    """What most servers do: wait until the batch is full or the first one's time is up."""

    def _outlook(self) -> Outlook:
        return Outlook(Cost(math.inf, 0.0), seen=math.inf, gap=0.0, burst=0.0)


@dataclass(frozen=True)
class Rule:
    name: str
    make: Callable[..., Batcher]
    max_wait: float  # seconds


RULES = [Rule("at once", Batcher, 0.0), Rule("5 ms", Patient, 0.005), Rule("expected", Batcher, 0.005)]
MODELS = [(5.0, 0.1), (2.0, 0.5), (3.2, 6.0), (20.0, 1.0)]  # fixed and per row, milliseconds
CLIENTS = [1, 2, 4, 8, 32]
RATES = [0.1, 0.5, 0.8]  # share of what batches of 32 could take


Load = Callable[[Batcher], Coroutine[Any, Any, list[float]]]


class Synthetic:
    def __init__(self, fixed: float, per_row: float) -> None:
        self.fixed, self.per_row = fixed / 1e3, per_row / 1e3  # seconds

    async def __call__(self, inputs: Tensors) -> AsyncGenerator[Tensors]:
        rows = len(inputs["x"])
        await asyncio.sleep((self.fixed + self.per_row * rows) * random.gauss(1, 0.03))
        yield inputs


async def closed_loop(batcher: Batcher, clients: int, seconds: float = SECONDS) -> list[float]:
    """Latencies. Each client asks again 0.1 to 0.5 ms after its answer."""
    latencies: list[float] = []

    async def client() -> None:
        while now() < seconds:
            began = now()
            await batcher.submit({"x": np.zeros((1, 1))})
            latencies.append(now() - began)
            await asyncio.sleep(random.uniform(1e-4, 5e-4))

    await asyncio.gather(*(client() for _ in range(clients)))
    return latencies


async def open_loop(batcher: Batcher, rate: float, seconds: float = SECONDS) -> list[float]:
    """Latencies. Requests come as a Poisson process, whatever becomes of them."""
    latencies: list[float] = []

    async def request() -> None:
        began = now()
        await batcher.submit({"x": np.zeros((1, 1))})
        latencies.append(now() - began)

    async with asyncio.TaskGroup() as group:
        while now() < seconds:
            await asyncio.sleep(random.expovariate(rate))
            group.create_task(request())
    return latencies


def on_a_clock_that_jumps(scene: Coroutine[Any, Any, list[float]]) -> list[float]:
    random.seed(0)
    with asyncio.Runner(loop_factory=ManualClockLoop) as runner:
        return runner.run(scene)


def compare_rules() -> None:
    print("requests/s, mean latency and 99th percentile in ms, by when a batch is let go")
    print(f"{'cost of a run':>14} {'load':>11}" + "".join(f"{rule.name:>26}" for rule in RULES))
    for fixed, per_row in MODELS:
        engine = Synthetic(fixed, per_row)
        most = ROWS / (engine.fixed + engine.per_row * ROWS)  # rows a second
        loads: list[tuple[str, Load]] = [(f"{n} clients", partial(closed_loop, clients=n)) for n in CLIENTS]
        loads += [(f"{share:.0%} load", partial(open_loop, rate=share * most)) for share in RATES]
        for label, load in loads:
            cells = [_cell(load, rule.make(engine, _limits(rule))) for rule in RULES]
            print(f"{fixed:4.1f} + {per_row:.1f}·n ms {label:>11}" + "".join(cells))


def _limits(rule: Rule) -> BatchLimits:
    return BatchLimits(ROWS, rule.max_wait, max_queue_rows=100_000)


def _cell(load: Load, batcher: Batcher) -> str:
    latencies = on_a_clock_that_jumps(load(batcher))
    p99 = statistics.quantiles(latencies, n=100)[98]
    return f"{len(latencies) / SECONDS:9.0f}/s {statistics.mean(latencies) * 1e3:6.1f} {p99 * 1e3:6.1f}"


# -- MiniLM


def texts() -> list[Tensors]:
    """One row of words for each client, of the same number of tokens."""
    rng = np.random.default_rng(0)
    words = ["sea", "fish", "boat", "net", "wind", "salt", "tide", "gull", "sand", "rope"]
    rows = [" ".join(rng.choice(words, TEXT_TOKENS - 2)).encode() for _ in range(ROWS)]
    return [{"text": np.array([[row]], dtype=np.object_)} for row in rows]


def bare(pipeline: TensorPipeline, inputs: list[Tensors], runs: int) -> tuple[float, Array]:
    """Texts a second and the embeddings of a run."""
    batch = {"text": np.concatenate([row["text"] for row in inputs])}
    began = time.perf_counter()
    outputs = [pipeline.run(batch) for _ in range(runs)]
    return runs * ROWS / (time.perf_counter() - began), outputs[-1]["embedding"]


async def batched(runtime: TensorRuntime, inputs: list[Tensors], runs: int) -> tuple[float, Array]:
    """The same from clients of one row that ask one time after the other."""

    async def client(number: int) -> Array:
        request = Infer(RequestId(f"client-{number}"), ModelName("minilm"), inputs[number])
        answers = asyncio.Queue[Inferred]()
        for _ in range(runs):
            await runtime.infer(request, answers.put, deadline=None)
        return [answers.get_nowait() for _ in range(runs)][-1].outputs["embedding"]

    began = time.perf_counter()
    rows = await asyncio.gather(*(client(number) for number in range(ROWS)))
    return runs * ROWS / (time.perf_counter() - began), np.concatenate(rows)


async def minilm(rounds: int, runs: int) -> None:
    folder = cache_folder(Config())
    threads = len(os.sched_getaffinity(0))
    spec = make_spec("minilm", ModelConfig(uri="minilm"))
    pipeline = tensor_parts(spec, folder, EngineOptions(threads=threads)).join()
    released = Released()
    info = tensor_runtime(spec, pipeline).info
    runtime = TensorRuntime(info, pipeline, BatchLimits(), observer=released)
    inputs, ratios = texts(), []
    bare(pipeline, inputs, 2)
    await batched(runtime, inputs, 2)
    for number in range(1, rounds + 1):
        alone, expected = bare(pipeline, inputs, runs)
        together, got = await batched(runtime, inputs, runs)
        np.testing.assert_allclose(got, expected, atol=1e-5)
        ratios.append(together / alone)
        print(f"round {number}: bare loop {alone:.0f} texts/s, batched {together:.0f} texts/s, ratio {ratios[-1]:.3f}")
    print(f"ratio: {statistics.median(ratios):.3f} (lowest {min(ratios):.3f}, highest {max(ratios):.3f})")
    print(f"rows of a batch: {statistics.mean(released.rows):.1f}; let go: {dict(released.reasons)}")
    await runtime.close()


class Released:
    def __init__(self) -> None:
        self.rows: list[int] = []
        self.reasons = Counter[str]()

    def batch_released(self, model: str, reason: Release, rows: int, requests: int, waited: float, ran: float) -> None:
        self.rows.append(rows)
        self.reasons[reason] += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=10, help="batches in a round")
    parser.add_argument("--only", choices=("rules", "minilm"))
    options = parser.parse_args()
    if options.only != "minilm":
        compare_rules()
    if options.only != "rules":
        print(f"MiniLM, {ROWS} clients, {len(os.sched_getaffinity(0))} cores, load before: {os.getloadavg()[0]:.2f}")
        asyncio.run(minilm(options.rounds, options.runs))


if __name__ == "__main__":
    main()
