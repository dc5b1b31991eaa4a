"""Real engine processes that get stuck."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest

from shoal.config import ModelConfig
from shoal.messages import Infer, LoadModel
from shoal.types import FIRST_VERSION, ModelKind, ModelName, ModelState, RequestId
from shoal.worker.engine_process import EngineProcess

MODEL = """
class Doubler:
    def run(self, inputs):
        return {"y": inputs["x"] * 2}
"""


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "engine_host" in " ".join(child.cmdline())]


async def test_a_process_that_has_fallen_silent_is_ended_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "doubler.py").write_text(MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    settings = msgspec.to_builtins(ModelConfig(uri="doubler:Doubler"))
    name = ModelName("doubler")
    command = LoadModel(name, FIRST_VERSION, settings, str(tmp_path), 1, 1, 1)
    engine = EngineProcess(
        command,
        ModelKind.TENSOR,
        environment={"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        silence=8.0,
    )
    told: list[tuple[ModelState, str]] = []
    changed = asyncio.Event()

    def note() -> None:
        told.append((engine.info.state, engine.info.reason))
        changed.set()

    async def until_ready() -> None:
        while engine.info.state is not ModelState.READY:
            changed.clear()
            await changed.wait()

    engine.start(note)
    try:
        async with asyncio.timeout(60):
            await until_ready()
            (first,) = children()
            first.send_signal(signal.SIGSTOP)
            while engine.info.state is ModelState.READY:
                changed.clear()
                await changed.wait()
            assert told[-1][1] == "its engine died (it said nothing for 8 seconds) and is starting again"
            await until_ready()
            request = Infer(RequestId("r"), name, {"x": np.ones((1, 2), np.float32)})
            (answer,) = [part async for part in engine.infer(request, deadline=None)]
            assert answer.outputs["y"].tolist() == [[2.0, 2.0]]
            assert not first.is_running()
    finally:
        await engine.close()
    assert children() == []
