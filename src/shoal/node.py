"""The composition root: the only place that builds components and joins them."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
import sys
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import msgspec
import uvloop
from prometheus_client import CollectorRegistry

from shoal.aio import Tasks
from shoal.api import build_app
from shoal.api.listener import Listener
from shoal.cluster import CoreGrant, engine_environment, plan_cores, share_grant
from shoal.config import Config, ModelConfig, cache_folder
from shoal.coordinator.admission import Admission
from shoal.coordinator.dataplane import DataPlane
from shoal.coordinator.fleet import Fleet
from shoal.coordinator.native import NativeSurface
from shoal.errors import ConfigError
from shoal.launchers.local import ChildProcess, keep_running
from shoal.load_balancer import Health, LeastConnections
from shoal.messages import LoadModel
from shoal.model_registry import Engine, ModelSpec, Registry, Source, parse_model_argument
from shoal.rpc import Hello, Server, TcpNetwork
from shoal.telemetry import CoordinatorMetrics
from shoal.types import CoordinatorId, ModelName
from shoal.worker.engine_process import EngineProcess
from shoal.worker.loading import echo_runtime
from shoal.worker.runtime import ModelRuntime
from shoal.worker.worker import Worker

logger = logging.getLogger(__name__)


class Node(Protocol):
    """Something that runs in a process of its own."""

    async def start(self) -> str:
        """Returns the address it serves on."""

    async def wait_stopped(self) -> None:
        """Return when it has reason to end by itself."""

    async def stop(self) -> None: ...


# -- coordinator


class CoordinatorNode:
    def __init__(self, config: Config) -> None:
        settings = config.coordinator
        self._settings = settings
        name = CoordinatorId(f"coordinator-{uuid.uuid4().hex[:8]}")
        registry = Registry(configured_models(config))
        health = Health()
        metrics = CoordinatorMetrics(CollectorRegistry(), is_known=registry.__contains__)
        self._fleet = Fleet(name, registry=registry, health=health, heartbeat_interval=settings.heartbeat_interval)
        self._admission = Admission(settings.max_in_flight)
        plane = DataPlane(
            registry=registry,
            fleet=self._fleet,
            health=health,
            policy=LeastConnections(),
            admission=self._admission,
            metrics=metrics,
            request_timeout=settings.request_timeout,
        )
        self._native = NativeSurface(plane, self._fleet)
        self._hello = Hello(role="coordinator", node_id=name)
        self._server = Server(hello=self._hello, handler=self._native.handle)
        app = build_app(plane, metrics=metrics.render)
        self._listener = Listener(app, self._server.accept, drain_timeout=settings.drain_timeout)

    async def start(self) -> str:
        address = await self._listener.start(self._settings.host, self._settings.port)
        self._fleet.start()
        network = TcpNetwork()
        for worker in self._settings.workers:
            self._fleet.call(network, worker, self._hello, self._native.handle)
        logger.info("coordinator serves on http://%s", address, extra={"action": "coordinator_started"})
        return address

    async def wait_stopped(self) -> None:
        await asyncio.Event().wait()

    async def stop(self) -> None:
        """Take nothing new, let what runs end, then close every connection."""
        await self._admission.drain(self._settings.drain_timeout)
        await self._fleet.close()
        await self._server.close("the coordinator stops")
        await self._listener.stop()


def configured_models(config: Config) -> list[ModelSpec]:
    """The models of the command line and of the configuration file."""
    named = [parse_model_argument(argument) for argument in config.worker.models]
    return named + [_configured(name, model) for name, model in config.models.items()]


def _configured(name: str, model: ModelConfig) -> ModelSpec:
    spec = parse_model_argument(f"{name}={model.uri}")
    return msgspec.structs.replace(spec, aliases=tuple(ModelName(alias) for alias in model.aliases))


# -- worker


class WorkerNode:
    def __init__(self, config: Config, *, stop_on_eof: bool) -> None:
        specs = configured_models(config)
        if not specs:
            raise ConfigError("a worker needs at least one --model, such as --model default", param="worker.models")
        runtimes = build_runtimes(config, specs)
        self._worker = Worker(config.worker, runtimes, TcpNetwork())
        self._drain_timeout = config.worker.drain_timeout
        self._stop_on_eof = stop_on_eof

    async def start(self) -> str:
        return await self._worker.start()

    async def wait_stopped(self) -> None:
        """A worker that a coordinator has drained ends, and one whose parent has died."""
        ends = [asyncio.ensure_future(self._worker.wait_drained())]
        if self._stop_on_eof:
            ends.append(asyncio.ensure_future(_end_of_stdin()))
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()

    async def stop(self) -> None:
        await self._worker.stop(self._drain_timeout)


def build_runtimes(config: Config, specs: list[ModelSpec]) -> dict[ModelName, ModelRuntime]:
    """A runtime for each model: echo in this process, every real engine in one of its own."""
    cpus = config.worker.cpus or tuple(sorted(os.sched_getaffinity(0)))
    grant = share_grant(plan_cores(cpus, 1)[0], len(specs))
    return {spec.name: _runtime(config, spec, grant) for spec in specs}


def _runtime(config: Config, spec: ModelSpec, grant: CoreGrant) -> ModelRuntime:
    if spec.source is Source.BUILT_IN and spec.target == Engine.ECHO:
        return echo_runtime(spec.name)
    command = LoadModel(
        name=spec.name,
        uri=spec.uri,
        cache_dir=str(cache_folder(config)),
        threads=grant.threads,
        kv_tokens=config.engine.kv_tokens,
        max_sequences=config.engine.max_sequences,
    )
    return EngineProcess(command, spec.kind, cpus=config.worker.cpus, environment=engine_environment(grant))


async def _end_of_stdin() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        while await reader.read(1024):
            pass
    finally:
        transport.close()


# -- both, for one machine


class ServeNode:
    """A coordinator in this process and its workers as children, each on cores of its own."""

    def __init__(self, config: Config, file: Path | None) -> None:
        self._config = config
        self._file = file  # of the configuration: the workers read it too
        self._coordinator = CoordinatorNode(config)
        self._workers = Tasks()

    async def start(self) -> str:
        address = await self._coordinator.start()
        grants = plan_cores(sorted(os.sched_getaffinity(0)), self._config.serve.workers)
        for index, grant in enumerate(grants, start=1):
            self._workers.start(self._keep_worker(index, grant, address), name=f"worker {index}")
        return address

    async def wait_stopped(self) -> None:
        await self._coordinator.wait_stopped()

    async def stop(self) -> None:
        await self._coordinator.stop()
        await self._workers.close()

    async def _keep_worker(self, index: int, grant: CoreGrant, coordinator: str) -> None:
        host, _, port = coordinator.rpartition(":")
        own_port = int(port) + index if self._config.coordinator.port else 0
        command = [sys.executable, "-m", "shoal", "worker", "--stop-on-eof"]
        command += ["--host", host, "--port", str(own_port), "--coordinator", coordinator]
        command += ["--cpus", ",".join(map(str, grant.cpus))]
        command += ["--log-level", self._config.log.level, "--log-format", self._config.log.format]
        if self._file is not None:
            command += ["--config", str(self._file)]
        for model in self._config.worker.models:
            command += ["--model", model]
        start = functools.partial(ChildProcess.start, f"worker {index}", command, cpus=grant.cpus)
        await keep_running(f"worker {index}", start, stop_timeout=self._config.worker.drain_timeout)


# -- running


def run(build: Callable[[], Node]) -> None:
    """Build a node and run it until it ends or is told to by SIGINT or SIGTERM; a second signal does not wait."""
    uvloop.run(_run(build))


async def _run(build: Callable[[], Node]) -> None:
    told = asyncio.Event()

    def on_signal() -> None:
        if told.is_set():
            # Children see the end of their pipes and leave by themselves.
            os._exit(130)
        told.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    node = build()
    try:
        await node.start()
        await _first(told.wait(), node.wait_stopped())
    finally:
        await node.stop()


async def _first(*waits: Awaitable[object]) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
