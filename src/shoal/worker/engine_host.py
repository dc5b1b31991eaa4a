"""The process an engine lives in: ``python -m shoal.worker.engine_host FD`` with FD one end of a socket pair.

It loads one model, answers for it, and ends when its worker does, or with the reason when its engine is broken: only
a new process gets rid of a native call that does not return.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from functools import partial

import msgspec
from prometheus_client import CollectorRegistry

from shoal.aio import Tasks
from shoal.clock import now
from shoal.config import TelemetryConfig
from shoal.errors import ModelUnavailable, ProtocolError
from shoal.launchers.local import end_with_parent
from shoal.messages import Generate, Infer, Load, LoadModel, LoadReport, Message, MetricsReport
from shoal.preproc.sending import send_made
from shoal.rpc import Call, Connection, Hello, adopt
from shoal.telemetry import close_tracing, configure_tracing
from shoal.telemetry.engine_metrics import EngineMetrics
from shoal.telemetry.relay import Changes
from shoal.types import ModelId
from shoal.worker.freezing import HEARTBEAT
from shoal.worker.loading import load_model
from shoal.worker.runtime import ModelRuntime

REPORT_INTERVAL = 0.25  # seconds between looks at the load; it is sent when it has changed, or with the heartbeat
METRICS_INTERVAL = 1.0  # seconds
PARTING = 2.0  # seconds for the last errors to go out when the engine is broken


class EngineHost:
    def __init__(self) -> None:
        self._runtime: ModelRuntime | None = None
        self._tasks = Tasks()
        self._running = 0  # requests
        self._idle = asyncio.Event()
        self._broken = asyncio.Event()
        self._reason = ""

    async def serve(self, fd: int) -> str:
        """Serve until the worker closes its end, or the engine is broken: returns why, or nothing."""
        end = socket.socket(fileno=fd)
        connection = await adopt(end, hello=Hello(role="engine", node_id=str(os.getpid())), handler=self._handle)
        ends = [
            self._tasks.start(connection.wait_closed(), name="wait for the worker's end"),
            self._tasks.start(self._broken.wait(), name="wait for the engine to break"),
        ]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if self._broken.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), PARTING)
            await connection.close(self._reason)
        await self._tasks.close()
        return self._reason

    def _break(self, reason: str) -> None:
        self._reason = reason
        self._broken.set()

    async def _handle(self, message: Message, call: Call) -> None:
        self._running += 1
        self._idle.clear()
        try:
            if isinstance(message, Infer):
                await self._ready().infer(message, partial(send_made, call), deadline=call.deadline)
            else:
                await self._answer(message, call)
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    async def _answer(self, message: Message, call: Call) -> None:
        match message:
            case Generate():
                async with contextlib.aclosing(self._ready().generate(message, deadline=call.deadline)) as chunks:
                    async for chunk in chunks:
                        await call.send(chunk)
            case LoadModel():
                configure_tracing(msgspec.convert(message.telemetry, TelemetryConfig), service="shoal-engine")
                model = ModelId(message.name, message.version)
                metrics = EngineMetrics(model, CollectorRegistry(), message.shard)
                self._runtime = await load_model(message, self._break, metrics)
                self._runtime.start(lambda: None)
                self._tasks.start(self._report(call.connection, self._runtime), name="report load")
                self._tasks.start(self._measure(call.connection, self._runtime, metrics), name="report metrics")
                await call.send(self._runtime.info)
            case _:
                raise ProtocolError(f"an engine process does not take {type(message).__name__}")

    def _ready(self) -> ModelRuntime:
        if self._runtime is None:
            raise ModelUnavailable("the model is not loaded yet")
        return self._runtime

    async def _report(self, connection: Connection, runtime: ModelRuntime) -> None:
        told, then = Load(), now()
        while not connection.is_closed:
            load = runtime.load()
            if load != told or now() - then >= HEARTBEAT:
                connection.notify(LoadReport(load))
                told, then = load, now()
            await asyncio.sleep(REPORT_INTERVAL)

    async def _measure(self, connection: Connection, runtime: ModelRuntime, metrics: EngineMetrics) -> None:
        changes = Changes(metrics.registry)
        while not connection.is_closed:
            load = runtime.load()
            metrics.loaded(load.waiting, load.kv_used)
            if families := changes.take():
                connection.notify(MetricsReport("", families))
            await asyncio.sleep(METRICS_INTERVAL)


def main() -> None:
    end_with_parent()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s: %(message)s")
    reason = asyncio.run(EngineHost().serve(int(sys.argv[1])))
    close_tracing()
    if reason:
        print(reason, file=sys.stderr, flush=True)  # the worker gives a process's last line as the reason of its end
    # Without waiting for the engine's thread: it may be in the middle of a long step that nobody wants any more.
    os._exit(1 if reason else 0)


if __name__ == "__main__":
    main()
