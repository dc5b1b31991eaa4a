"""One step process as its parent sees it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from typing import Protocol, Self

from shoal.cluster import step_environment
from shoal.errors import ModelLoadFailed, ShoalError, WorkerLost
from shoal.launchers.local import ChildProcess
from shoal.messages import Inferred, LoadSteps, RunSteps, StepsLoaded
from shoal.rpc import Connection, Hello, adopt
from shoal.types import Tensors

LOAD_TIMEOUT = 60.0  # seconds to import and make the steps
LAST_WORDS = 1.0  # seconds between the end of the connection and that of the process


class StepProcess(Protocol):
    """Takes one request at a time."""

    loaded: StepsLoaded

    @property
    def is_alive(self) -> bool: ...

    async def run(self, message: RunSteps) -> Tensors:
        """Raises what the steps raise, and :class:`~shoal.errors.WorkerLost` when the process ends before."""

    async def wait(self) -> str:
        """Wait for the end of the process and say how it came."""

    def kill(self) -> None: ...

    async def stop(self) -> None: ...


class ChildStepProcess:
    """A child process over a socket pair."""

    def __init__(self, process: ChildProcess, connection: Connection, loaded: StepsLoaded) -> None:
        self.loaded = loaded
        self._process = process
        self._connection = connection

    @classmethod
    async def start(cls, name: str, command: LoadSteps) -> Self:
        """Raises :class:`~shoal.errors.ModelLoadFailed` when the steps cannot be made."""
        ours, theirs = socket.socketpair()
        async with contextlib.AsyncExitStack() as undo:
            undo.callback(ours.close)
            with theirs:
                process = await ChildProcess.start(
                    name,
                    [sys.executable, "-m", "shoal.preproc.host", str(theirs.fileno())],
                    environment=step_environment(),
                    pass_fds=[theirs.fileno()],
                    logs=False,
                )
            undo.push_async_callback(_end, process)
            connection = await adopt(ours, hello=Hello(role="worker", node_id=name))
            undo.push_async_callback(connection.close, "its steps could not be made")
            started = cls(process, connection, await _load(process, connection, command))
            undo.pop_all()
        return started

    @property
    def is_alive(self) -> bool:
        return not self._connection.is_closed

    async def run(self, message: RunSteps) -> Tensors:
        answer = await self._connection.call(message, timeout=None)
        assert isinstance(answer, Inferred)
        return answer.outputs

    async def wait(self) -> str:
        await self._connection.wait_closed()
        try:
            return await asyncio.wait_for(self._process.wait(), LAST_WORDS)
        except TimeoutError:
            self.kill()
            return await self._process.wait()

    def kill(self) -> None:
        self._process.kill()

    async def stop(self) -> None:
        self.kill()
        await self._connection.close("the steps are not needed any more")
        await _end(self._process)


async def _load(process: ChildProcess, connection: Connection, command: LoadSteps) -> StepsLoaded:
    try:
        await connection.ready(timeout=LOAD_TIMEOUT)
        loaded = await connection.call(command, timeout=LOAD_TIMEOUT)
    except WorkerLost as error:
        raise ModelLoadFailed(f"{process.name} {await process.wait()} before its steps were made") from error
    except ModelLoadFailed:
        raise
    except ShoalError as error:
        raise ModelLoadFailed(f"{process.name}: {error.message}") from error
    assert isinstance(loaded, StepsLoaded)
    return loaded


async def _end(process: ChildProcess) -> None:
    # It keeps nothing, so it need not be asked; and a step that is stuck would not listen.
    process.kill()
    await process.stop()
