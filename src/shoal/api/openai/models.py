"""GET /v1/models and /v1/models/{id}. A name may hold slashes; an alias is a model of its own to clients."""

from __future__ import annotations

from collections.abc import Iterable

from shoal.api.asgi import Exchange
from shoal.api.openai.answers import Model, ModelList, encode
from shoal.api.plane import Plane, ServedModel
from shoal.errors import ModelNotFound


async def list_all(plane: Plane, exchange: Exchange) -> None:
    data = [entry for model in plane.models() for entry in _entries(model)]
    await exchange.answer(200, encode(ModelList(data=data)))


async def retrieve(plane: Plane, exchange: Exchange) -> None:
    wanted = exchange.parameters["model"]
    for model in plane.models():
        for entry in _entries(model):
            if entry.id == wanted:
                await exchange.answer(200, encode(entry))
                return
    raise ModelNotFound(f"there is no model {wanted!r}", param="model")


def _entries(model: ServedModel) -> Iterable[Model]:
    for name in (model.name, *model.aliases):
        yield Model(
            id=name,
            created=model.created,
            root=model.name,
            kind=model.kind,
            ready=model.ready,
            state=model.state,
            reason=model.reason,
        )
