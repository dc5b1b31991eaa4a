"""A coordinator and a worker in one process, over rpc in memory, with models that answer at once: what is left is the
cost of Shoal's own path. Rates are per second of CPU time, which what else runs on the machine disturbs least."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager

import numpy as np

from shoal.config import CacheConfig, CoordinatorConfig, ModelConfig, WorkerConfig
from shoal.coordinator.dataplane import DataPlane
from shoal.messages import Chunk, Generate, Infer, Inferred, Load, MetricFamily, ModelInfo
from shoal.model_registry import ModelSpec, Registry
from shoal.node import Coordinator
from shoal.rpc import MemoryNetwork
from shoal.types import FinishReason, ModelKind, ModelName, ModelState, RequestId, Sampling, TextPrompt, Usage
from shoal.worker.runtime import Send
from shoal.worker.worker import Worker

CLIENTS = 32
TOKENS = 32  # of a generated answer, each a part of its own


class Instant:
    """Answers at once: a tensor with itself, a prompt with tokens."""

    def __init__(self, name: str, kind: ModelKind) -> None:
        self.info = ModelInfo(name=ModelName(name), kind=kind, state=ModelState.READY)
        self.called = 0

    def load(self) -> Load:
        return Load()

    def metrics(self) -> Sequence[MetricFamily]:
        return ()

    def start(self, changed: Callable[[], None]) -> None:
        return None

    async def generate(self, request: Generate, *, deadline: float | None) -> AsyncGenerator[Chunk, None]:
        self.called += 1
        for index in range(TOKENS - 1):
            yield Chunk(" fish", (index,))
            await asyncio.sleep(0)  # as tokens come: one a step
        yield Chunk(" fish", (TOKENS,), (), FinishReason.LENGTH, Usage(8, TOKENS))

    def infer_now(self, request: Infer) -> Inferred:
        self.called += 1
        return Inferred({"output": request.inputs["input"]})

    async def infer(self, request: Infer, send: Send, *, deadline: float | None) -> None:
        await send(self.infer_now(request))

    async def close(self) -> None:
        return None


@asynccontextmanager
async def served(
    settings: Mapping[str, ModelConfig], cache: CacheConfig
) -> AsyncGenerator[tuple[DataPlane, dict[str, Instant]], None]:
    """The way in, and a model of each kind for each of the settings, called ``KIND NAME``."""
    models = {f"{kind} {name}": Instant(f"{kind} {name}", kind) for kind in ModelKind for name in settings}
    specs = [
        ModelSpec(name=model.info.name, kind=model.info.kind, settings=settings[name.partition(" ")[2]])
        for name, model in models.items()
    ]
    network = MemoryNetwork("coordinator")
    coordinator = Coordinator(CoordinatorConfig(), Registry(specs), network, cache=cache)
    listener = await network.listen("coordinator:9000", coordinator.server.accept)
    coordinator.start()
    config = WorkerConfig(host="worker", coordinators=("coordinator:9000",))
    worker = Worker(config, {model.info.part: model for model in models.values()}, network.at("worker"))
    await worker.start()
    while not coordinator.plane.ready():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    yield coordinator.plane, models
    listener.close()
    await worker.stop()
    await coordinator.stop()


async def ask(plane: DataPlane, model: Instant, number: int, trace: str = "") -> None:
    """One request; ``number`` tells it from others."""
    name = RequestId(f"request-{number}")
    if model.info.kind is ModelKind.TENSOR:
        row = np.full(64, number, dtype=np.float32)
        answer = await plane.infer(Infer(name, model.info.name, {"input": row}, trace=trace))
        assert answer.outputs["output"][0] == np.float32(number)
    else:
        prompt = TextPrompt(f"How many fish are {number}? " * 10)
        request = Generate(name, model.info.name, prompt, Sampling(max_tokens=TOKENS, temperature=0), trace=trace)
        assert len([chunk async for chunk in plane.generate(request)]) > 0


async def rate(plane: DataPlane, model: Instant, numbers: Iterator[int], count: int, trace: str = "") -> float:
    """Requests a second of CPU time."""

    async def client() -> None:
        for number in itertools.islice(numbers, count // CLIENTS):
            await ask(plane, model, number, trace)

    began = time.process_time()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return count // CLIENTS * CLIENTS / (time.process_time() - began)
