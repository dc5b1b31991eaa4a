"""A worker: registers with coordinators, takes their requests, tells them how it is, leaves in order."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import Callable, Coroutine, Mapping
from contextlib import aclosing, suppress
from typing import Any

import psutil

from shoal.aio import Tasks
from shoal.config import WorkerConfig
from shoal.errors import Draining, Forbidden, Overloaded, ProtocolError, ShoalError, WorkerLost
from shoal.messages import (
    Ack,
    Deploy,
    Deregister,
    Drain,
    Generate,
    Infer,
    Inferred,
    Invite,
    ListModels,
    Load,
    Message,
    ModelList,
    Register,
    Registered,
    Resources,
    Status,
    Undeploy,
)
from shoal.rpc import Call, Connection, Dialer, Hello, Network, Server
from shoal.rpc.network import join_address
from shoal.telemetry.genai import caused
from shoal.telemetry.tracing import NOTHING, Span, SpanKind, span
from shoal.types import FIRST_VERSION, ModelId, ModelPart, WorkerId, WorkerState
from shoal.worker.lifecycle import worker_state
from shoal.worker.models import Build, Models
from shoal.worker.reports import Reports
from shoal.worker.runtime import ModelRuntime

logger = logging.getLogger(__name__)

REGISTER_TIMEOUT = 10.0  # seconds
WILDCARDS = frozenset({"", "0.0.0.0", "::"})  # hosts that mean every address of the machine


class Worker:
    def __init__(
        self,
        config: WorkerConfig,
        runtimes: Mapping[ModelPart, ModelRuntime],
        network: Network,
        *,
        worker_id: WorkerId | None = None,
        build: Build | None = None,
    ) -> None:
        self.address = ""
        self.state = WorkerState.STARTING
        self._config = config
        self._network = network
        self._worker_id = worker_id
        self._instance = uuid.uuid4().hex
        self._in_flight = 0
        self._place = _Place(self._begin, self._end)
        self._draining = False
        self._reports = Reports(self._status, lambda: self._models.metrics())
        self._models = Models(runtimes, build=build, changed=self._reports.changed)
        self._idle = asyncio.Event()
        self._idle.set()
        self._drained = asyncio.Event()
        self._tasks = Tasks()
        self._dialers: list[Dialer] = []
        self._server: Server | None = None

    def __repr__(self) -> str:
        coordinators = len(self._reports.coordinators)
        return f"<Worker {self.address} {self.state}, {self._in_flight} in flight, {coordinators} coordinators>"

    # -- starting and leaving

    async def start(self) -> str:
        """Listen, load, register. Returns the address; models go on loading."""
        wanted = join_address(self._config.host, self._config.port)
        self._worker_id = self._worker_id or WorkerId(f"worker-{_name(self._config, self._instance)}")
        self._server = Server(hello=self._hello(), handler=self._handle)
        self.address = await self._server.listen(self._network, wanted)
        self._models.start()
        self._reports.start(self._tasks)
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
        self._reports.changed()
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
        for link in self._reports.coordinators:
            with suppress(WorkerLost):
                link.notify(Deregister(self._id, "the worker stops"))
        for dialer in self._dialers:
            await dialer.close()
        if self._server is not None:
            await self._server.close("the worker stops")
        await self._models.close()
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
            models=self._models.infos(),
            zone=self._config.zone,
            role=self._config.role,
            weight=self._config.weight,
        )
        try:
            answer = await connection.call(message, timeout=REGISTER_TIMEOUT)
            if not isinstance(answer, Registered):
                raise ProtocolError(f"{connection.name} answered a registration with {type(answer).__name__}")
        except ShoalError as error:
            logger.warning("registration failed: %s", error.message, extra={"action": "registration_failed"})
            await connection.close("registration failed")
            return
        logger.info("registered with %s", answer.coordinator_id, extra={"action": "registered"})
        with self._reports.told_to(connection, answer.heartbeat_interval):
            await connection.wait_closed()

    def _status(self) -> Status:
        self.state = self._next_state()
        return Status(self._id, self.state, self._load(), self._models.infos())

    def _next_state(self) -> WorkerState:
        return worker_state(
            self.state,
            [info.state for info in self._models.infos()],
            in_flight=self._in_flight,
            capacity=self._config.capacity,
            draining=self._draining,
        )

    def _load(self) -> Load:
        loads = self._models.loads()
        return Load(
            in_flight=self._in_flight,
            waiting=sum(load.waiting for load in loads),
            kv_used=max((load.kv_used for load in loads), default=0.0),
        )

    # -- requests

    def _handle(self, message: Message, call: Call) -> Inferred | Coroutine[Any, Any, None]:
        if not isinstance(message, Infer):
            return self._serve(message, call)
        self._check_room()
        part = _part(message)
        infer_now = self._models.runtime(part).infer_now
        if infer_now is None:
            return self._infer(message, part, call)
        with self._span(message) as made:
            return infer_now(caused(message, made))

    async def _infer(self, request: Infer, part: ModelPart, call: Call) -> None:
        with self._place, self._models.used(part) as runtime, self._span(request) as made:
            await runtime.infer(caused(request, made), call.send, deadline=call.deadline)

    async def _serve(self, message: Message, call: Call) -> None:
        match message:
            case Generate():
                with self._place, self._models.used(_part(message)) as runtime, self._span(message) as made:
                    async with aclosing(runtime.generate(caused(message, made), deadline=call.deadline)) as chunks:
                        async for chunk in chunks:
                            await call.send(chunk)
            case Deploy() | Undeploy():
                self._check_order(call.connection)
                await self._change(message)
                self._reports.tell()  # before the answer: who has it may at once rely on what it knows of this worker
                await call.send(Ack())
            case ListModels():
                await call.send(ModelList(self._models.infos()))
            case Invite():
                is_known = self._is_invited(call.connection)
                await call.send(Ack())
                if not is_known:
                    self._tasks.start(self._register(call.connection), name="register")
            case Drain():
                self._check_order(call.connection)
                await self.drain(message.timeout)
                await call.send(Ack())
                self._drained.set()
            case _:
                raise ProtocolError(f"a worker does not take {type(message).__name__}")

    def _is_invited(self, connection: Connection) -> bool:
        """Is it registered with whoever calls? Raises :class:`Forbidden` for one that may not have it register."""
        if connection.peer.role != "coordinator":
            raise Forbidden(f"a {connection.peer.role} invites no worker")
        if any(link.peer.node_id == connection.peer.node_id for link in self._reports.coordinators):
            return True
        if self._config.coordinators:
            raise Forbidden(f"worker {self._id} serves the coordinators of its configuration alone")
        return False

    def _check_order(self, connection: Connection) -> None:
        """Orders come from coordinators that it has registered with. Raises :class:`Forbidden`."""
        if connection.peer.role != "coordinator" or connection not in self._reports.coordinators:
            raise Forbidden(f"worker {self._id} takes orders only from coordinators it has registered with")

    def _span(self, message: Generate | Infer) -> Span:
        if not message.trace:  # what it would belong to is recorded by nobody
            return NOTHING
        return span(f"run {message.model}", message.trace, kind=SpanKind.SERVER, attributes={"shoal.worker": self._id})

    async def _change(self, order: Deploy | Undeploy) -> None:
        if isinstance(order, Undeploy):
            await self._models.undeploy(order)
        elif self._draining:
            raise Draining(f"worker {self._id} is leaving")
        else:
            await self._models.deploy(order)

    def _check_room(self) -> None:
        """Raises :class:`ShoalError` when there is no place for a request."""
        if self._draining:
            raise Draining(f"worker {self._id} is leaving")
        if self._in_flight >= self._config.capacity:
            raise Overloaded(
                f"worker {self._id} already holds its capacity of {self._config.capacity} requests",
                retry_after=1.0,
            )

    def _begin(self) -> None:
        """A request takes a place of the worker's capacity. Raises :class:`ShoalError` when there is none."""
        self._check_room()
        self._in_flight += 1
        self._idle.clear()
        self._reports.changed()

    def _end(self) -> None:
        self._in_flight -= 1
        if not self._in_flight:
            self._idle.set()
        self._reports.changed()


class _Place:
    """Around a request. It holds nothing, so all requests have the same one."""

    def __init__(self, begin: Callable[[], None], end: Callable[[], None]) -> None:
        self._begin = begin
        self._end = end

    def __enter__(self) -> None:
        self._begin()

    def __exit__(self, *_: object) -> None:
        self._end()


def _name(config: WorkerConfig, instance: str) -> str:
    """With a port of its own a worker is known again after a restart."""
    if not config.port:
        return instance[:8]
    # Every machine has the wildcard addresses, so they tell no worker from another.
    return join_address(socket.gethostname() if config.host in WILDCARDS else config.host, config.port)


def _part(request: Generate | Infer) -> ModelPart:
    shard = request.shard if isinstance(request, Infer) else None
    return ModelPart(ModelId(request.model, request.version or FIRST_VERSION), shard)


def _resources(config: WorkerConfig) -> Resources:
    return Resources(cpus=len(config.cpus) or os.cpu_count() or 1, memory_bytes=psutil.virtual_memory().total)
