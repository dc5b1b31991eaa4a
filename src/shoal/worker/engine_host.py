"""The process an engine lives in: ``python -m shoal.worker.engine_host FD`` with FD one end of a socket pair.

It loads one model, answers for it, and ends when its worker does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys

from shoal.aio import Tasks
from shoal.errors import ModelUnavailable, ProtocolError
from shoal.messages import Generate, Infer, Load, LoadModel, LoadReport, Message
from shoal.rpc import Call, Connection, Hello, adopt
from shoal.worker.loading import load_model
from shoal.worker.runtime import ModelRuntime

REPORT_INTERVAL = 0.25  # seconds between looks at the load; it is sent only when it has changed

logger = logging.getLogger(__name__)


class EngineHost:
    def __init__(self) -> None:
        self._runtime: ModelRuntime | None = None
        self._tasks = Tasks()

    async def serve(self, fd: int) -> None:
        """Serve until the worker closes its end."""
        end = socket.socket(fileno=fd)
        connection = await adopt(end, hello=Hello(role="engine", node_id=str(os.getpid())), handler=self._handle)
        await connection.wait_closed()

    async def _handle(self, message: Message, call: Call) -> None:
        match message:
            case Generate():
                async with contextlib.aclosing(self._ready().generate(message)) as chunks:
                    async for chunk in chunks:
                        await call.send(chunk)
            case Infer():
                async with contextlib.aclosing(self._ready().infer(message, deadline=call.deadline)) as parts:
                    async for part in parts:
                        await call.send(part)
            case LoadModel():
                self._runtime = await load_model(message)
                self._runtime.start(lambda: None)
                self._tasks.start(self._report(call.connection, self._runtime), name="report load")
                await call.send(self._runtime.info)
            case _:
                raise ProtocolError(f"an engine process does not take {type(message).__name__}")

    def _ready(self) -> ModelRuntime:
        if self._runtime is None:
            raise ModelUnavailable("the model is not loaded yet")
        return self._runtime

    async def _report(self, connection: Connection, runtime: ModelRuntime) -> None:
        told = Load()
        while not connection.is_closed:
            load = runtime.load()
            if load != told:
                connection.notify(LoadReport(load))
                told = load
            await asyncio.sleep(REPORT_INTERVAL)


def main() -> None:
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s: %(message)s")
    asyncio.run(EngineHost().serve(int(sys.argv[1])))
    # Without waiting for the engine's thread: it may be in the middle of a long step that nobody wants any more.
    os._exit(0)


if __name__ == "__main__":
    main()
