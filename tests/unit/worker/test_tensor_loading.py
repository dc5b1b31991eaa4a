"""A tensor model's settings to the steps around its engine, in this process."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from shoal.config import ModelConfig, StepConfig
from shoal.errors import ConfigError, ModelLoadFailed
from shoal.messages import Infer, Inferred, LoadModel
from shoal.telemetry.engine_metrics import EngineMetrics
from shoal.types import FIRST_VERSION, ModelId, ModelName, RequestId, Tensors, TensorSpec
from shoal.worker.loading import load_model
from shoal.worker.runtime import ModelRuntime

LOWER: StepConfig = {"normalize_text": {"input": "input", "output": "input", "lower": True}}
RENAMED: StepConfig = {"normalize_text": {"input": "output", "output": "said", "strip": False}}


class Scale:
    """A model that takes ``x`` and gives ``y``; named in a URI."""

    inputs = (TensorSpec("x", "FP32", (-1, 1)),)
    outputs = (TensorSpec("y", "FP32", (-1, 1)),)

    def run(self, inputs: Tensors) -> Tensors:
        return {"y": inputs["x"] * 2}


async def load(uri: str = "echo", **settings: Any) -> ModelRuntime:
    config = msgspec.to_builtins(ModelConfig(uri=uri, **settings))
    name = ModelName("fish")
    command = LoadModel(name, FIRST_VERSION, config, "", threads=1, kv_tokens=256, max_sequences=1)
    return await load_model(command, lambda reason: None, EngineMetrics(ModelId(name), CollectorRegistry()))


async def ask(runtime: ModelRuntime, **inputs: Any) -> Tensors:
    request = Infer(RequestId("1"), ModelName("fish"), inputs)
    parts = asyncio.Queue[Inferred]()
    await runtime.infer(request, parts.put, deadline=None)
    answer = parts.get_nowait()
    assert answer.last
    return answer.outputs


async def test_the_steps_of_the_settings_stand_around_the_engine() -> None:
    runtime = await load(preproc=(LOWER,), postproc=(RENAMED,))
    assert [spec.name for spec in runtime.info.inputs] == ["input"]
    assert [spec.name for spec in runtime.info.outputs] == ["said"]
    made = await ask(runtime, input=np.array([[b" FISH "]], object))
    assert {name: array.tolist() for name, array in made.items()} == {"said": [[b"fish"]]}
    await runtime.close()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"preproc": ("shrink",)}, "there is no step 'shrink'"),
        ({"postproc": ({"softmax": {"over": 1}},)}, "step 'softmax': .*unknown field `over`"),
        ({"postproc": ({"top_k": {}},)}, "step 'top_k': .*missing required field `k`"),
        ({"uri": f"{__name__}:Scale", "postproc": ("softmax",)}, "softmax takes 'logits', which nothing makes"),
        ({"uri": f"{__name__}:Scale", "preproc": ("normalize",)}, "the engine takes 'x', which nothing makes"),
        ({"uri": "smollm2", "preproc": (LOWER,)}, "model 'fish' generates text; preproc and postproc"),
    ],
)
async def test_steps_that_cannot_be_are_an_error_of_the_model(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises((ModelLoadFailed, ConfigError), match=reason):
        await load(**settings)
