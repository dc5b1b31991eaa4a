"""A worker: registers with coordinators, takes their requests, tells them how it is, leaves in order."""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress

import psutil

from shoal.aio import Tasks
from shoal.config import WorkerConfig
from shoal.errors import Draining, ModelNotFound, Overloaded, ProtocolError, ShoalError, WorkerLost
from shoal.messages import (
    Ack,
    Deregister,
    Drain,
    Generate,
    Infer,
    Invite,
    ListModels,
    Load,
    Message,
    ModelInfo,
    ModelList,
    Register,
    Registered,
    Resources,
    Status,
)
from shoal.rpc import Call, Connection, Dialer, Hello, Network, Server
from shoal.rpc.network import join_address
from shoal.types import FIRST_VERSION, ModelId, ModelPart, WorkerId, WorkerState
from shoal.worker.lifecycle import worker_state
from shoal.worker.runtime import ModelRuntime

logger = logging.getLogger(__name__)

REGISTER_TIMEOUT = 10.0  # seconds
STATUS_PAUSE = 0.02  # seconds between two reports at least: a burst of changes is one report
HEARTBEAT = 1.0  # seconds between reports at most, until a coordinator asks for another interval


class Worker:
    def __init__(
        self,
        config: WorkerConfig,
        runtimes: Mapping[ModelPart, ModelRuntime],
        network: Network,
        *,
        worker_id: WorkerId | None = None,
    ) -> None:
        self.address = ""
        self.state = WorkerState.STARTING
        self._config = config
        self._runtimes = runtimes
        self._network = network
        self._worker_id = worker_id
        self._instance = uuid.uuid4().hex
        self._in_flight = 0
        self._draining = False
        self._links: set[Connection] = set()  # registered with a coordinator
        self._heartbeat = HEARTBEAT
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._drained = asyncio.Event()
        self._tasks = Tasks()
        self._dialers: list[Dialer] = []
        self._server: Server | None = None

    def __repr__(self) -> str:
        return f"<Worker {self.address} {self.state}, {self._in_flight} in flight, {len(self._links)} coordinators>"

    # -- starting and leaving

    async def start(self) -> str:
        """Listen, load, register. Returns the address; models go on loading."""
        wanted = join_address(self._config.host, self._config.port)
        # With a port of its own a worker is known again after a restart.
        name = wanted if self._config.port else self._instance[:8]
        self._worker_id = self._worker_id or WorkerId(f"worker-{name}")
        self._server = Server(hello=self._hello(), handler=self._handle)
        self.address = await self._server.listen(self._network, wanted)
        for runtime in self._runtimes.values():
            runtime.start(self._changed.set)
        self._tasks.start(self._report(), name="report status")
        for address in self._config.coordinators:
            dialer = Dialer(
                self._network, address, hello=self._hello(), handler=self._handle, on_connected=self._register
            )
            dialer.start()
            self._dialers.append(dialer)
        logger.info("worker listens on %s", self.address, extra={"action": "worker_started"})
        return self.address

    async def wait_drained(self) -> None:
        """Return once a coordinator's drain has been carried out."""
        await self._drained.wait()

    async def drain(self, timeout: float) -> None:
        """Take nothing new; wait until what runs has ended, at most ``timeout`` seconds."""
        self._draining = True
        self._changed.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout)
        if self._in_flight:
            logger.warning(
                "%d requests still ran when the drain ended", self._in_flight, extra={"action": "drain_timeout"}
            )

    async def stop(self, timeout: float = 0.0) -> None:
        """Drain, say goodbye, and end every task, connection and engine process."""
        await self.drain(timeout)
        self.state = WorkerState.GONE
        for link in self._links:
            with suppress(WorkerLost):
                link.notify(Deregister(self._id, "the worker stops"))
        for dialer in self._dialers:
            await dialer.close()
        if self._server is not None:
            await self._server.close("the worker stops")
        await asyncio.gather(*(runtime.close() for runtime in self._runtimes.values()))
        await self._tasks.close()

    # -- coordinators

    @property
    def _id(self) -> WorkerId:
        assert self._worker_id is not None
        return self._worker_id

    def _hello(self) -> Hello:
        return Hello(role="worker", node_id=self._id)

    async def _register(self, connection: Connection) -> None:
        message = Register(
            worker_id=self._id,
            instance=self._instance,
            address=self.address,
            capacity=self._config.capacity,
            resources=_resources(self._config),
            state=self._next_state(),
            models=self._models(),
            zone=self._config.zone,
            role=self._config.role,
            weight=self._config.weight,
        )
        try:
            answer = await connection.call(message, timeout=REGISTER_TIMEOUT)
        except ShoalError as error:
            logger.warning("registration failed: %s", error.message, extra={"action": "registration_failed"})
            await connection.close("registration failed")
            return
        assert isinstance(answer, Registered)
        self._heartbeat = min(self._heartbeat, answer.heartbeat_interval)
        self._links.add(connection)
        self._changed.set()
        logger.info("registered with %s", answer.coordinator_id, extra={"action": "registered"})
        try:
            await connection.wait_closed()
        finally:
            self._links.discard(connection)

    async def _report(self) -> None:
        """Push the status on every change, and as a heartbeat when nothing changes."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), self._heartbeat)
            self._changed.clear()
            self.state = self._next_state()
            status = Status(self._id, self.state, self._load(), self._models())
            for link in self._links:
                with suppress(WorkerLost):
                    link.notify(status)
            await asyncio.sleep(STATUS_PAUSE)

    def _next_state(self) -> WorkerState:
        return worker_state(
            self.state,
            [runtime.info.state for runtime in self._runtimes.values()],
            in_flight=self._in_flight,
            capacity=self._config.capacity,
            draining=self._draining,
        )

    def _models(self) -> tuple[ModelInfo, ...]:
        return tuple(runtime.info for runtime in self._runtimes.values())

    def _load(self) -> Load:
        loads = [runtime.load() for runtime in self._runtimes.values()]
        return Load(
            in_flight=self._in_flight,
            waiting=sum(load.waiting for load in loads),
            kv_used=max((load.kv_used for load in loads), default=0.0),
        )

    # -- requests

    async def _handle(self, message: Message, call: Call) -> None:
        match message:
            case Generate():
                runtime = self._runtime(message)
                with self._occupied():
                    async with aclosing(runtime.generate(message)) as chunks:
                        async for chunk in chunks:
                            await call.send(chunk)
            case Infer():
                runtime = self._runtime(message)
                with self._occupied():
                    async with aclosing(runtime.infer(message, deadline=call.deadline)) as parts:
                        async for part in parts:
                            await call.send(part)
            case ListModels():
                await call.send(ModelList(self._models()))
            case Invite():
                await call.send(Ack())
                self._tasks.start(self._register(call.connection), name="register")
            case Drain():
                await self.drain(message.timeout)
                await call.send(Ack())
                self._drained.set()
            case _:
                raise ProtocolError(f"a worker does not take {type(message).__name__}")

    def _runtime(self, message: Generate | Infer) -> ModelRuntime:
        shard = message.shard if isinstance(message, Infer) else None
        part = ModelPart(ModelId(message.model, message.version or FIRST_VERSION), shard)
        try:
            return self._runtimes[part]
        except KeyError:
            raise ModelNotFound(f"this worker has no model '{part}'", param="model") from None

    @contextmanager
    def _occupied(self) -> Iterator[None]:
        """One place of the worker's capacity, for as long as a request runs."""
        if self._draining:
            raise Draining(f"worker {self._id} is leaving")
        if self._in_flight >= self._config.capacity:
            raise Overloaded(
                f"worker {self._id} already holds its capacity of {self._config.capacity} requests",
                retry_after=1.0,
            )
        self._in_flight += 1
        self._idle.clear()
        self._changed.set()
        try:
            yield
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()
            self._changed.set()


def _resources(config: WorkerConfig) -> Resources:
    return Resources(cpus=len(config.cpus) or os.cpu_count() or 1, memory_bytes=psutil.virtual_memory().total)
