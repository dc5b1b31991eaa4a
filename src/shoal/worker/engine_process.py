"""A model in a child process of the worker: an engine that crashes is an error with a reason, not a dead worker."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence

import msgspec
import psutil

from shoal.aio import Tasks
from shoal.clock import now
from shoal.errors import EngineFailed, ModelLoadFailed, ModelUnavailable, ShoalError, WorkerLost
from shoal.launchers.local import ChildProcess, RestartPolicy
from shoal.messages import (
    Chunk,
    Generate,
    Infer,
    Inferred,
    Load,
    LoadModel,
    LoadReport,
    Message,
    MetricFamily,
    MetricsReport,
    ModelInfo,
)
from shoal.rpc import Call, Connection, Hello, adopt
from shoal.types import ModelKind, ModelState
from shoal.worker.freezing import FreezeWatch
from shoal.worker.runtime import Send

logger = logging.getLogger(__name__)

SILENCE = 60.0  # seconds without a word, until a loaded engine process counts as stuck
LOAD_TIMEOUT = 600.0  # seconds: a first load may convert weights


class EngineProcess:
    """Starts the process, loads the model in it, forwards requests, restarts it when it dies."""

    infer_now = None

    def __init__(
        self,
        command: LoadModel,
        kind: ModelKind,
        *,
        cpus: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
        silence: float = SILENCE,
    ) -> None:
        self.info = ModelInfo(
            name=command.name,
            kind=kind,
            state=ModelState.LOADING,
            version=command.version,
            shard=command.shard,
        )
        self._command = command
        self._cpus = cpus
        self._environment = dict(environment or {})
        self._silence = silence
        self._connection: Connection | None = None  # while the model can be asked
        self.sent = 0  # requests that it has
        self._load = Load()
        self._families: dict[str, MetricFamily] = {}
        self._changed: Callable[[], None] = lambda: None
        self._tasks = Tasks()

    def load(self) -> Load:
        return self._load

    def metrics(self) -> Iterable[MetricFamily]:
        return self._families.values()

    def start(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._tasks.start(self._supervise(), name=f"supervise engine of {self.info.name}")

    async def generate(self, request: Generate, *, deadline: float | None) -> AsyncGenerator[Chunk]:
        timeout = None if deadline is None else deadline - now()
        with _Asked(self, self._ready()) as connection:
            async with connection.stream(request, timeout) as answers:
                async for chunk in answers:
                    assert isinstance(chunk, Chunk)
                    yield chunk

    async def infer(self, request: Infer, send: Send, *, deadline: float | None) -> None:
        timeout = None if deadline is None else deadline - now()
        with _Asked(self, self._ready()) as connection:
            async with connection.stream(request, timeout) as answers:
                async for part in answers:
                    assert isinstance(part, Inferred)
                    await send(part)
                    if part.last:
                        return

    async def close(self) -> None:
        await self._tasks.close()

    def _ready(self) -> Connection:
        if self._connection is None:
            raise ModelUnavailable(f"model '{self.info.name}' is {self._why()}")
        return self._connection

    def _why(self) -> str:
        return f"{self.info.state}: {self.info.reason}" if self.info.reason else str(self.info.state)

    def _set(self, state: ModelState, reason: str = "") -> None:
        self.info = msgspec.structs.replace(self.info, state=state, reason=reason)
        self._changed()

    async def _supervise(self) -> None:
        policy = RestartPolicy()
        while True:
            began = now()
            try:
                reason = await self._run_once()
            except ModelLoadFailed as error:
                # The process said no in order; asking it again would give the same answer.
                logger.error("%s", error, extra={"action": "model_failed", "model": self.info.name})
                self._set(ModelState.FAILED, error.message)
                return
            pause = policy.delay(now() - began)
            extra = {"action": "engine_died", "model": self.info.name, "crashes": policy.crashes}
            logger.error("the engine of model '%s' died: %s", self.info.name, reason, extra=extra)
            if pause is None:
                self._set(ModelState.FAILED, f"its engine died {policy.crashes} times in a row, last: {reason}")
                return
            self._set(ModelState.LOADING, f"its engine died ({reason}) and is starting again")
            await asyncio.sleep(pause)

    async def _run_once(self) -> str:
        """One life of the process: returns how it ended. Raises :class:`ModelLoadFailed` if it refused the model."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await ChildProcess.start(
                f"engine of {self.info.name}",
                [sys.executable, "-m", "shoal.worker.engine_host", str(theirs.fileno())],
                environment=self._environment,
                cpus=self._cpus,
                pass_fds=[theirs.fileno()],
                logs=False,
            )
        try:
            connection = await adopt(ours, hello=Hello(role="worker", node_id=self.info.name), handler=self._handle)
            try:
                return await self._serve(connection, process)
            finally:
                self._connection = None
                await connection.close("the worker stops this engine")
        finally:
            await process.stop()

    async def _serve(self, connection: Connection, process: ChildProcess) -> str:
        try:
            await connection.ready(timeout=LOAD_TIMEOUT)
            info = await connection.call(self._command, timeout=LOAD_TIMEOUT)
        except WorkerLost:
            return await process.wait()
        except ModelLoadFailed:
            raise
        except ShoalError as error:
            raise ModelLoadFailed(f"model '{self.info.name}': {error.message}") from error
        assert isinstance(info, ModelInfo)
        self._connection, self.info = connection, msgspec.structs.replace(info, shard=self._command.shard)
        self._changed()
        return await self._end(connection, process)

    async def _end(self, connection: Connection, process: ChildProcess) -> str:
        """How it ended; or that it is there but has fallen silent, as one that is stopped or stuck does."""
        watch = FreezeWatch(probe=connection.ping, is_stopped=lambda: _is_stopped(process.pid))
        ended = self._tasks.start(process.wait(), name=f"wait for the engine of {self.info.name}")
        try:
            while now() - connection.heard < self._silence:
                await asyncio.wait([ended], timeout=watch.pause)
                if ended.done():
                    return str(ended.result())
                self._freeze(connection, watch.look(self.sent, connection.heard, now()))
            return f"it said nothing for {self._silence:g} seconds"
        finally:
            ended.cancel()

    def _freeze(self, connection: Connection, frozen: bool) -> None:
        """Out of use, or back."""
        if frozen is (self._connection is None) or connection.is_closed:
            return
        extra = {"action": "engine_frozen" if frozen else "engine_thawed", "model": self.info.name}
        logger.warning("the engine of '%s' %s", self.info.name, "is frozen" if frozen else "speaks again", extra=extra)
        self._connection = None if frozen else connection
        if frozen:
            self._set(ModelState.LOADING, "its engine process was stopped and does not answer")
            connection.give_up_calls("it is frozen")  # whoever waits for it goes on elsewhere
        else:
            self._set(ModelState.READY)

    async def _handle(self, message: Message, call: Call) -> None:
        match message:
            case LoadReport():
                if message.load != self._load:
                    self._load = message.load
                    self._changed()
            case MetricsReport():
                self._families |= {family.name: family for family in message.families}


class _Asked:
    """Around a request that the process has."""

    __slots__ = ("_connection", "_engine")

    def __init__(self, engine: EngineProcess, connection: Connection) -> None:
        self._engine = engine
        self._connection = connection

    def __enter__(self) -> Connection:
        self._engine.sent += 1
        return self._connection

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._engine.sent -= 1
        if isinstance(error, WorkerLost):
            how = "ended" if self._connection.is_closed else "was stopped"
            raise EngineFailed(f"the engine process of model '{self._engine.info.name}' {how} while it ran") from error


def _is_stopped(pid: int) -> bool:
    """As SIGSTOP does it: none of its threads runs."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return False
