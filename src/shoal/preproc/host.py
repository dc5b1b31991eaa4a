"""A process that steps live in: ``python -m shoal.preproc.host FD`` with FD one end of a socket pair.

It makes the steps of one model, runs them for one request at a time, and ends when its parent does.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import socket
import sys
from pathlib import Path

from shoal.errors import ModelUnavailable, ProtocolError
from shoal.messages import Inferred, LoadSteps, Message, RunSteps, StepsLoaded
from shoal.preproc.chain import Chain
from shoal.rpc import Call, Hello, adopt
from shoal.types import Tensors

GRACE = 5.0  # seconds beyond the limit that the parent has to kill a process that is stuck


class StepHost:
    def __init__(self) -> None:
        self._preproc = self._postproc = Chain()
        self._timeout: float | None = None  # once the steps are made

    async def serve(self, fd: int) -> None:
        """Serve until the parent closes its end."""
        end = socket.socket(fileno=fd)
        connection = await adopt(end, hello=Hello(role="engine", node_id=str(os.getpid())), handler=self.handle)
        await connection.wait_closed()

    async def handle(self, message: Message, call: Call) -> None:
        # In a thread, so that the end of the parent is noticed at once.
        match message:
            case RunSteps():
                await call.send(Inferred(await asyncio.to_thread(self._run, message)))
            case LoadSteps():
                await asyncio.to_thread(self._load, message)
                await call.send(StepsLoaded(self._preproc.info, self._postproc.info))
            case _:
                raise ProtocolError(f"a step process does not take {type(message).__name__}")

    def _load(self, message: LoadSteps) -> None:
        folder = None if message.folder is None else Path(message.folder)
        self._preproc = Chain.make(message.preproc, folder)
        self._postproc = Chain.make(message.postproc, folder)
        self._timeout = message.timeout

    def _run(self, message: RunSteps) -> Tensors:
        if self._timeout is None:
            raise ModelUnavailable("the steps are not loaded yet")
        # Foreign code that holds the interpreter's lock stops our loop too; this watch needs neither, says where the
        # code is stuck, and ends the process also when there is no parent any more to do it.
        faulthandler.dump_traceback_later(self._timeout + GRACE, exit=True)
        try:
            if message.half == "postproc":
                return self._postproc.run(message.tensors)[1]
            made, _ = self._preproc.run(message.tensors)
            return made if message.wanted is None else {name: made[name] for name in message.wanted if name in made}
        finally:
            faulthandler.cancel_dump_traceback_later()


def main() -> None:
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s: %(message)s")
    asyncio.run(StepHost().serve(int(sys.argv[1])))
    os._exit(0)  # without waiting for a step that nobody wants any more


if __name__ == "__main__":
    main()
