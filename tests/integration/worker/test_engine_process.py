"""Real engine processes that get stuck."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest

from shoal.config import ModelConfig
from shoal.errors import EngineFailed, ModelUnavailable
from shoal.messages import Infer, Inferred, LoadModel
from shoal.types import FIRST_VERSION, ModelKind, ModelName, ModelState, RequestId
from shoal.worker.engine_process import EngineProcess

NAME = ModelName("doubler")
BUSY = 200_000_000  # numbers that one native call sums up, for some seconds in which no other thread has a turn

MODEL = f"""
class Doubler:
    def run(self, inputs):
        if inputs["x"][0, 0] < 0:
            sum(range({BUSY}))
        return {{"y": inputs["x"] * 2}}
"""

Silence = float


class Running:
    """An engine process that has begun, and what was told of it."""

    def __init__(self, engine: EngineProcess) -> None:
        self.engine = engine
        self.told: list[tuple[ModelState, str]] = []
        self._changed = asyncio.Event()

    def note(self) -> None:
        self.told.append((self.engine.info.state, self.engine.info.reason))
        self._changed.set()

    async def until(self, state: ModelState, reason: str = "") -> None:
        while (self.engine.info.state, self.engine.info.reason) != (state, reason):
            self._changed.clear()
            await self._changed.wait()

    async def double(self, number: float) -> float:
        request = Infer(RequestId("r"), NAME, {"x": np.full((1, 1), number, np.float32)})
        parts = asyncio.Queue[Inferred]()
        await self.engine.infer(request, parts.put, deadline=None)
        return float(parts.get_nowait().outputs["y"][0, 0])


Start = Callable[[Silence], AbstractAsyncContextManager[Running]]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    (tmp_path / "doubler.py").write_text(MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    settings = msgspec.to_builtins(ModelConfig(uri="doubler:Doubler"))
    command = LoadModel(NAME, FIRST_VERSION, settings, str(tmp_path), 1, 1, 1)
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"

    @asynccontextmanager
    async def started(silence: Silence) -> AsyncIterator[Running]:
        engine = EngineProcess(command, ModelKind.TENSOR, environment={"PYTHONPATH": path}, silence=silence)
        running = Running(engine)
        engine.start(running.note)
        try:
            async with asyncio.timeout(60):
                await running.until(ModelState.READY)
                yield running
        finally:
            await engine.close()
        assert children() == []

    return started


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "engine_host" in " ".join(child.cmdline())]


FROZEN = "its engine process was stopped and does not answer"


async def test_a_process_that_has_fallen_silent_is_ended_and_started_again(start: Start) -> None:
    async with start(3.0) as running:
        (first,) = children()
        first.send_signal(signal.SIGSTOP)
        await running.until(ModelState.LOADING, FROZEN)
        await running.until(ModelState.LOADING, "its engine died (it said nothing for 3 seconds) and is starting again")
        await running.until(ModelState.READY)
        assert await running.double(1.0) == 2.0
        assert not first.is_running()


async def test_a_process_that_is_stopped_loses_its_requests_at_once_and_is_back_with_its_first_word(
    start: Start,
) -> None:
    async with start(60.0) as running:
        (process,) = children()
        asked = asyncio.create_task(running.double(-1.0))
        await asyncio.sleep(0)
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(EngineFailed, match="was stopped while it ran"):
            await asked
        assert running.told[-1] == (ModelState.LOADING, FROZEN)
        with pytest.raises(ModelUnavailable, match="was stopped"):
            await running.double(1.0)
        process.send_signal(signal.SIGCONT)
        await running.until(ModelState.READY)
        assert await running.double(1.0) == 2.0
        assert process.is_running()


async def test_a_process_in_a_long_native_call_is_busy_and_nothing_else(start: Start) -> None:
    async with start(60.0) as running:
        before = len(running.told)
        assert await running.double(-1.0) == -2.0
        assert {state for state, _ in running.told[before:]} <= {ModelState.READY}
