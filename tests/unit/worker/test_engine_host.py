"""The program of an engine process, in this process: one end of a socket pair asks, the other is the engine's."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import numpy as np
import pytest

from shoal.config import ModelConfig
from shoal.engines.base import Logits, Row
from shoal.engines.echo import EchoEngine
from shoal.engines.toy import ToyEngine
from shoal.errors import EngineFailed
from shoal.messages import Generate, Infer, LoadModel, ModelInfo
from shoal.model_registry import make_spec
from shoal.rpc import Hello, adopt
from shoal.telemetry.engine_metrics import EngineMetrics
from shoal.types import (
    FIRST_VERSION,
    Array,
    ModelKind,
    ModelName,
    ModelState,
    RequestId,
    Sampling,
    Tensors,
    TokenPrompt,
)
from shoal.worker import engine_host
from shoal.worker.engine_host import EngineHost
from shoal.worker.generation import GenerationLoop, Limits
from shoal.worker.loading import OnUnhealthy, tensor_runtime
from shoal.worker.pipeline import TensorPipeline
from shoal.worker.runtime import LanguageRuntime, TensorRuntime

COMMAND = LoadModel(ModelName("toy"), FIRST_VERSION, {}, "", 1, 1, 1)


async def test_a_process_whose_engine_hangs_answers_everyone_and_ends_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = ToyEngine()

    def hang(rows: list[Row], logits: Logits) -> None:
        engine.interrupted.wait(10)

    engine.intervene = hang  # type: ignore[assignment]
    runtimes: list[LanguageRuntime] = []

    async def load(command: LoadModel, on_unhealthy: OnUnhealthy, _metrics: EngineMetrics) -> LanguageRuntime:
        info = ModelInfo(command.name, ModelKind.GENERATE, ModelState.READY)
        encode: Any = lambda prompt: prompt.tokens  # noqa: E731
        loop = GenerationLoop(engine, encode_prompt=encode, limits=Limits(step_seconds=0.05), on_unhealthy=on_unhealthy)
        runtimes.append(LanguageRuntime(info, loop))
        return runtimes[0]

    monkeypatch.setattr(engine_host, "load_model", load)
    ours, theirs = socket.socketpair()
    serving = asyncio.create_task(EngineHost().serve(theirs.detach()))
    connection = await adopt(ours, hello=Hello(role="worker", node_id="w"))
    await connection.ready(10)
    await connection.call(COMMAND, timeout=10)

    async def ask() -> None:
        request = Generate(RequestId("r"), ModelName("toy"), TokenPrompt((97,)), Sampling(max_tokens=3))
        async with connection.stream(request, timeout=10) as answers:
            async for _ in answers:
                pass

    results = await asyncio.gather(ask(), ask(), return_exceptions=True)
    assert [str(result) for result in results] == ["the engine has not ended its step for 0.05 seconds"] * 2
    assert {type(result) for result in results} == {EngineFailed}
    assert await asyncio.wait_for(serving, 10) == "the engine has not ended its step for 0.05 seconds"
    await connection.close()
    await runtimes[0].close()


@pytest.mark.parametrize(
    "made", [np.array(["text"]), np.zeros(1, np.complex64), np.array([object()])], ids=["text", "complex", "object"]
)
async def test_an_answer_that_cannot_travel_is_the_models_mistake(monkeypatch: pytest.MonkeyPatch, made: Array) -> None:
    class Engine(EchoEngine):
        def run(self, inputs: Tensors) -> Tensors:
            return {"y": made}

    async def load(command: LoadModel, on_unhealthy: OnUnhealthy, _metrics: EngineMetrics) -> TensorRuntime:
        return tensor_runtime(make_spec("odd", ModelConfig(uri="echo")), TensorPipeline(Engine()))

    monkeypatch.setattr(engine_host, "load_model", load)
    ours, theirs = socket.socketpair()
    serving = asyncio.create_task(EngineHost().serve(theirs.detach()))
    connection = await adopt(ours, hello=Hello(role="worker", node_id="w"))
    await connection.ready(10)
    await connection.call(COMMAND, timeout=10)
    with pytest.raises(EngineFailed, match="what was computed cannot be sent"):
        await connection.call(Infer(RequestId("r"), ModelName("odd"), {}), timeout=10)
    await connection.close()
    await asyncio.wait_for(serving, 10)


async def test_a_process_whose_worker_goes_ends_without_a_reason() -> None:
    ours, theirs = socket.socketpair()
    serving = asyncio.create_task(EngineHost().serve(theirs.detach()))
    connection = await adopt(ours, hello=Hello(role="worker", node_id="w"))
    await connection.ready(10)
    await connection.close()
    assert await asyncio.wait_for(serving, 10) == ""
