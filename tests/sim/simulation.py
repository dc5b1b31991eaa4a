"""A whole fleet in one event loop: real coordinator, real workers, a network in memory and a clock that jumps.

Only the models are scripted: a runtime that answers with numbers, one each :data:`STEP` seconds of the jumping clock.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import numpy as np

from shoal.clock import ManualClockLoop
from shoal.config import CoordinatorConfig, KeepConfig, TenantConfig, WorkerConfig
from shoal.discovery import Store
from shoal.errors import EngineFailed, InvalidRequest
from shoal.messages import Chunk, Generate, Infer, Inferred, Load, MetricFamily, ModelInfo
from shoal.model_registry import ModelSpec, Registry, restored
from shoal.node import Coordinator
from shoal.router import RoutingDecision
from shoal.rpc import MemoryNetwork
from shoal.rpc.network import Listener
from shoal.types import (
    FinishReason,
    ModelKind,
    ModelName,
    ModelState,
    RequestId,
    Sampling,
    Tensors,
    TextPrompt,
    Usage,
)
from shoal.worker.models import Build
from shoal.worker.runtime import Send
from shoal.worker.worker import Worker

MODEL = ModelName("numbers")
TABLE = ModelName("table")
SERIES = ModelName("series")
NO_TENANTS: Mapping[str, TenantConfig] = {}
STEP = 0.02  # seconds a token takes
COORDINATOR = "coordinator:9000"
KEEP = KeepConfig()


class NumbersRuntime:
    """Generates ``0 1 2 …``. ``running`` are the requests it computes for; ``breaks_at``: a token it fails before;
    ``step``: seconds that a token takes."""

    infer_now = None

    def __init__(self, *, loads_in: float = 0.0, breaks_at: int | None = None, step: float = STEP) -> None:
        self.running: set[RequestId] = set()
        self.steps = 0
        self.info = _info(ModelState.LOADING if loads_in else ModelState.READY)
        self._loads_in = loads_in
        self._breaks_at = breaks_at
        self._step = step
        self._changed: Callable[[], None] = lambda: None

    def load(self) -> Load:
        return Load(in_flight=len(self.running))

    def metrics(self) -> Iterable[MetricFamily]:
        return ()

    def start(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        asyncio.get_running_loop().call_later(self._loads_in, self._loaded)

    def _loaded(self) -> None:
        self.info = msgspec.structs.replace(self.info, state=ModelState.READY)
        self._changed()

    async def generate(self, request: Generate, *, deadline: float | None) -> AsyncGenerator[Chunk, None]:
        self.running.add(request.request_id)
        try:
            total = request.sampling.max_tokens or 1
            for index in range(len(request.output), total):
                await asyncio.sleep(self._step)
                self.steps += 1
                if index == self._breaks_at:
                    raise EngineFailed("the engine is broken")
                last = index == total - 1
                yield Chunk(
                    text=f"{index} ",
                    tokens=(index,),
                    finish_reason=FinishReason.LENGTH if last else None,
                    usage=Usage(1, total) if last else None,
                )
        finally:
            self.running.discard(request.request_id)

    async def infer(self, request: Infer, send: Send, *, deadline: float | None) -> None:
        await asyncio.sleep(STEP)
        await send(Inferred(request.inputs))

    async def close(self) -> None:
        return None


def _info(state: ModelState) -> ModelInfo:
    return ModelInfo(name=MODEL, kind=ModelKind.GENERATE, state=state)


class ShardRuntime(NumbersRuntime):
    """A shard of :data:`TABLE`, or all of it: answers each ``id`` with itself, in ``echo``, and the shard."""

    def __init__(self, shard: int | None, *, fails: bool = False) -> None:
        super().__init__()
        self.info = ModelInfo(name=TABLE, kind=ModelKind.TENSOR, state=ModelState.READY, shard=shard)
        self._shard = shard
        self._fails = fails

    async def infer(self, request: Infer, send: Send, *, deadline: float | None) -> None:
        self.running.add(request.request_id)
        try:
            await asyncio.sleep(STEP)
            if self._fails:
                raise InvalidRequest("this shard takes no such rows")
            await asyncio.sleep(STEP)
            self.steps += 1
            ids = request.inputs["id"]
            await send(Inferred({"echo": ids, "shard": np.full(len(ids), self._shard or 0)}))
        finally:
            self.running.discard(request.request_id)


class PartsRuntime(NumbersRuntime):
    """Of :data:`SERIES`: answers with as many parts as its input says, ``0 1 2 …`` times ``factor``."""

    def __init__(self, *, factor: int = 1, breaks_at: int | None = None) -> None:
        super().__init__(breaks_at=breaks_at)
        self.info = ModelInfo(name=SERIES, kind=ModelKind.TENSOR, state=ModelState.READY)
        self._factor = factor

    async def infer(self, request: Infer, send: Send, *, deadline: float | None) -> None:
        self.running.add(request.request_id)
        try:
            for index in range(int(request.inputs["parts"][0])):
                await asyncio.sleep(STEP)
                self.steps += 1
                if index == self._breaks_at:
                    raise EngineFailed("the engine is broken")
                await send(Inferred({"part": np.array([index * self._factor])}, last=False))
            await send(Inferred({}))
        finally:
            self.running.discard(request.request_id)


class Fleet:
    """What a simulation holds: a coordinator, its workers by host, and the network between them."""

    listener: Listener  # the coordinator's

    def __init__(
        self,
        specs: Iterable[ModelSpec] = (),
        *,
        store: Store | None = None,
        tenants: Mapping[str, TenantConfig] = NO_TENANTS,
        keep: KeepConfig = KEEP,
        **settings: Any,
    ) -> None:
        self.network = MemoryNetwork("coordinator")
        self.registry = restored(Registry(specs), store.load()) if store else Registry(specs)
        self.coordinator = Coordinator(
            CoordinatorConfig(**settings),
            self.registry,
            self.network,
            store=store,
            chance=random.Random(0),
            tenants=tenants,
            keep=keep,
        )
        self.workers: dict[str, Worker] = {}
        self.runtimes: dict[str, NumbersRuntime] = {}
        self.loaded: dict[str, tuple[NumbersRuntime, ...]] = {}  # the same and what each has beside
        self._requests = 0

    async def add_worker(
        self,
        host: str,
        *,
        invited: bool = False,
        coordinators: tuple[str, ...] = (COORDINATOR,),
        capacity: int = 64,
        zone: str = "",
        weight: float = 1.0,
        runtime: NumbersRuntime | None = None,
        others: Sequence[NumbersRuntime] = (),
        build: Build | None = None,
        **script: Any,
    ) -> Worker:
        """``invited``: it does not know of the coordinator, which has to call. ``others``: models that it has beside.
        ``build``: it loads what it is told."""
        runtime = runtime or NumbersRuntime(**script)
        calls = () if invited else coordinators
        config = WorkerConfig(host=host, coordinators=calls, capacity=capacity, zone=zone, weight=weight)
        self.loaded[host] = (runtime, *others)
        parts = {one.info.part: one for one in self.loaded[host]}
        worker = Worker(config, parts, self.network.at(host), build=build)
        self.workers[host], self.runtimes[host] = worker, runtime
        await worker.start()
        return worker

    async def until_ready(self, workers: int) -> None:
        async with asyncio.timeout(30):
            while sum(member.state == "ready" for member in self.coordinator.fleet.members()) < workers:
                await asyncio.sleep(0.01)

    async def ask(self, tokens: int = 5, *, timeout: float = 60.0, model: ModelName = MODEL) -> str:
        """One request through the data plane; returns the text."""
        request = Generate(self._next_id(), model, TextPrompt("count"), Sampling(max_tokens=tokens))
        return "".join([chunk.text async for chunk in self.coordinator.plane.generate(request, timeout=timeout)])

    async def look_up(self, ids: Sequence[int], *, timeout: float = 60.0) -> Tensors:
        """Rows of :data:`TABLE`, each from its shard."""
        request = Infer(self._next_id(), TABLE, {"id": np.array(ids)})
        return (await self.coordinator.plane.infer(request, timeout=timeout)).outputs

    async def series(self, parts: int, *, timeout: float = 60.0) -> list[int]:
        """The parts of an answer of :data:`SERIES`."""
        request = Infer(self._next_id(), SERIES, {"parts": np.array([parts])})
        answers = self.coordinator.plane.infer_stream(request, timeout=timeout)
        return [int(answer.outputs["part"][0]) async for answer in answers if answer.outputs]

    def _next_id(self) -> RequestId:
        self._requests += 1
        return RequestId(f"request-{self._requests}")

    def decisions(self) -> tuple[RoutingDecision, ...]:
        """Of the request that was made last."""
        return self.coordinator.dispatcher.decision(RequestId(f"request-{self._requests}"))

    def crash(self, host: str) -> None:
        """As kill -9: its connections break and it says nothing more."""
        self.network.faults(host).cut()
        self.network.faults(host).partition()

    def assert_nothing_is_left(self) -> None:
        assert self.coordinator.admission.in_flight == 0
        assert all(not runtime.running for runtime in self.runtimes.values())
        assert all(member.sent == 0 for member in self.coordinator.fleet.members())


@asynccontextmanager
async def fleet(size: int = 0, specs: Iterable[ModelSpec] = (), **settings: Any) -> AsyncGenerator[Fleet, None]:
    made = Fleet(specs, **settings)
    listener = made.listener = await made.network.listen(COORDINATOR, made.coordinator.server.accept)
    made.coordinator.start()
    try:
        for number in range(1, size + 1):
            await made.add_worker(f"w{number}")
        await made.until_ready(size)
        yield made
    finally:
        listener.close()
        await asyncio.gather(*(worker.stop() for worker in made.workers.values()))
        await made.coordinator.stop()


def counting(tokens: int) -> str:
    return "".join(f"{index} " for index in range(tokens))


def simulate(scenario: Coroutine[Any, Any, None]) -> None:
    """Run it on a clock that jumps, and see that it leaves no task behind."""

    async def run() -> None:
        await scenario
        for _ in range(3):  # what was cancelled last still has a step to go
            await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"left behind: {left}"

    with asyncio.Runner(loop_factory=ManualClockLoop) as runner:
        runner.run(run())
