"""GET /v2/models/… and the index of all models."""

from __future__ import annotations

import msgspec

from shoal.api.asgi import Exchange
from shoal.api.open_inference.answers import (
    IndexEntry,
    Metadata,
    ModelReady,
    ModelSettings,
    TensorMetadata,
    TensorSetting,
    encode,
)
from shoal.api.open_inference.schema import IndexBody
from shoal.api.openai.decode import parse
from shoal.api.plane import ModelSpec, Plane
from shoal.errors import ModelUnavailable

PLATFORM = "shoal"  # of a model whose workers alone know what it is

_index_decoder = msgspec.json.Decoder(IndexBody)


async def metadata(plane: Plane, exchange: Exchange) -> None:
    model = _find(plane, exchange)
    answer = Metadata(
        name=model.name,
        versions=[served.version for served in plane.models() if served.name == model.name],
        platform=_platform(model),
        inputs=[TensorMetadata.of(spec) for spec in model.inputs],
        outputs=[TensorMetadata.of(spec) for spec in model.outputs],
    )
    await exchange.answer(200, encode(answer))


async def ready(plane: Plane, exchange: Exchange) -> None:
    """Raises :class:`ModelUnavailable`: the protocol knows readiness by the status alone."""
    model = _find(plane, exchange)
    if not any(served.ready for served in plane.models() if (served.name, served.version) == model.id):
        raise ModelUnavailable(f"model '{model.id}' is ready on no worker")
    await exchange.answer(200, encode(ModelReady(model.name, ready=True)))


async def config(plane: Plane, exchange: Exchange) -> None:
    """In the words of Triton's model configuration."""
    model = _find(plane, exchange)
    batched = bool(model.inputs) and model.batchable is not False
    answer = ModelSettings(
        name=model.name,
        platform=_platform(model),
        backend=PLATFORM,
        max_batch_size=model.settings.batching.max_rows if batched else 0,
        input=[TensorSetting.of(spec, batched=batched) for spec in model.inputs],
        output=[TensorSetting.of(spec, batched=batched) for spec in model.outputs],
    )
    await exchange.answer(200, encode(answer))


async def index(plane: Plane, exchange: Exchange) -> None:
    body = await exchange.read_body()
    asked = parse(_index_decoder, body) if body else IndexBody()
    entries = [
        IndexEntry(model.name, model.version, "READY" if model.ready else "UNAVAILABLE", _reason(model.ready))
        for model in plane.models()
        if model.ready or not asked.ready
    ]
    await exchange.answer(200, encode(entries))


def _find(plane: Plane, exchange: Exchange) -> ModelSpec:
    parameters = exchange.parameters
    return plane.find(parameters["model"], parameters.get("version"), key=exchange.request_id)


def _platform(model: ModelSpec) -> str:
    return f"{PLATFORM}_{model.source}" if model.source else PLATFORM


def _reason(is_ready: bool) -> str:
    return "" if is_ready else "ready on no worker"
