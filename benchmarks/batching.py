"""Batching, in one process and without HTTP: `python benchmarks/batching.py [--rounds 5]`.

First the rule for when to wait, on a model that costs ``fixed + per_row · rows`` milliseconds and a clock that jumps, so
that the figures are the rule's alone. Then MiniLM on ONNX Runtime: 32 clients through a runtime, against a bare loop over
the same engine at batch 32.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import random
import statistics
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

import numpy as np

from shoal.batcher import Batcher, BatchLimits
from shoal.batcher.cost import Cost
from shoal.batcher.policy import Outlook
from shoal.clock import ManualClockLoop, now
from shoal.config import Config, ModelConfig, cache_folder
from shoal.engines.base import EngineOptions
from shoal.messages import Infer
from shoal.model_registry import make_spec
from shoal.model_store import no_progress, pull
from shoal.types import ModelName, RequestId, Tensors
from shoal.worker.loading import tensor_pipeline, tensor_runtime
from shoal.worker.runtime import TensorRuntime

ROWS = 32  # of a run at most
TEXT_TOKENS = 64
SECONDS = 5.0  # of the jumping clock

# -- the rule, on a clock that jumps


class Patient(Batcher):
    """What most servers do: wait until the batch is full or the first one's time is up."""

    def _outlook(self) -> Outlook:
        return Outlook(Cost(math.inf, 0.0), expected=1, gap=1e-9, seen=math.inf)


@dataclass(frozen=True)
class Rule:
    name: str
    make: Callable[..., Batcher]
    max_wait: float  # seconds


RULES = [Rule("at once", Batcher, 0.0), Rule("5 ms", Patient, 0.005), Rule("expected", Batcher, 0.005)]
MODELS = [(5.0, 0.1), (2.0, 0.5), (3.2, 6.0), (20.0, 1.0)]  # fixed and per row, milliseconds
CLIENTS = [1, 2, 4, 8, 32]
RATES = [0.1, 0.5, 0.8]  # share of what batches of 32 could take


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


def on_a_clock_that_jumps(scene: Callable[[], AsyncGenerator[float]] | Callable[[], object]) -> list[float]:
    random.seed(0)
    with asyncio.Runner(loop_factory=ManualClockLoop) as runner:
        return runner.run(scene())  # type: ignore[arg-type, return-value]


def compare_rules() -> None:
    print(f"{'model':>16} {'load':>12}  " + "  ".join(f"{rule.name:>24}" for rule in RULES))
    for fixed, per_row in MODELS:
        engine = Synthetic(fixed, per_row)
        most = ROWS / (engine.fixed + engine.per_row * ROWS)
        loads = [(f"{count} clients", lambda b, count=count: closed_loop(b, count)) for count in CLIENTS]
        loads += [(f"{share:.0%} rate", lambda b, share=share: open_loop(b, share * most)) for share in RATES]
        for label, load in loads:
            cells = []
            for rule in RULES:
                limits = BatchLimits(ROWS, rule.max_wait, max_queue_rows=100_000)
                latencies = on_a_clock_that_jumps(lambda: load(rule.make(engine, limits)))  # noqa: B023
                mean, p99 = statistics.mean(latencies) * 1e3, statistics.quantiles(latencies, n=100)[98] * 1e3
                cells.append(f"{len(latencies) / SECONDS:7.0f}/s {mean:6.1f} {p99:7.1f}")
            print(f"{fixed:5.1f} + {per_row:3.1f}·n ms {label:>12}  " + "  ".join(cells))
if __name__ == "__main__":
    compare_rules()
