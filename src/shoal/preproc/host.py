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

from shoal.aio import Tasks
from shoal.errors import ModelUnavailable, ProtocolError
from shoal.launchers.local import end_with_parent
from shoal.messages import Inferred, LoadSteps, Message, RunSteps, StepsLoaded
from shoal.preproc.chain import Chain
from shoal.preproc.sending import send_made
from shoal.rpc import Call, Hello, adopt
from shoal.types import Tensors

GRACE = 5.0  # seconds beyond the limit that the parent has to kill a process that is stuck


class StepHost:
    def __init__(self) -> None:
        self._preproc = self._postproc = Chain()
        self._is_loaded = False
        self._tasks = Tasks()

    async def serve(self, fd: int) -> None:
        """Serve until the parent closes its end."""
        end = socket.socket(fileno=fd)
        connection = await adopt(end, hello=Hello(role="engine", node_id=str(os.getpid())), handler=self.handle)
        await connection.wait_closed()

    async def handle(self, message: Message, call: Call) -> None:
        # In a thread, so that the end of the parent is noticed at once.
        match message:
            case RunSteps():
                await send_made(call, Inferred(await asyncio.to_thread(self._run, message)))
            case LoadSteps():
                await asyncio.to_thread(self._load, message)
                self._tasks.start(self._watch(message.timeout), name="watch the steps")
                await call.send(StepsLoaded(self._preproc.info, self._postproc.info))
            case _:
                raise ProtocolError(f"a step process does not take {type(message).__name__}")

    def _load(self, message: LoadSteps) -> None:
        folder = None if message.folder is None else Path(message.folder)
        self._preproc = Chain.make(message.preproc, folder)
        self._postproc = Chain.make(message.postproc, folder)
        self._is_loaded = True

    def _run(self, message: RunSteps) -> Tensors:
        if not self._is_loaded:
            raise ModelUnavailable("the steps are not loaded yet")
        if message.half == "postproc":
            return self._postproc.run(message.tensors)[1]
        made, _ = self._preproc.run(message.tensors)
        return made if message.wanted is None else {name: made[name] for name in message.wanted if name in made}

    async def _watch(self, timeout: float) -> None:
        """Foreign code that holds the interpreter's lock stops this loop too. The watch in C needs
        neither: it says where the code is stuck, and ends the process when there is no parent left to do it."""
        while True:
            faulthandler.dump_traceback_later(timeout + GRACE, exit=True)
            await asyncio.sleep(timeout / 2)


def main() -> None:
    end_with_parent()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s: %(message)s")
    asyncio.run(StepHost().serve(int(sys.argv[1])))
    os._exit(0)  # without waiting for a step that nobody wants any more


if __name__ == "__main__":
    main()
