"""GET /v1/models and /v1/models/{id}. A name may hold slashes; an alias is a model of its own to clients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from shoal.api.asgi import Exchange
from shoal.api.openai.answers import Model, ModelList, encode
from shoal.api.plane import Plane, ServedModel
from shoal.errors import ModelNotFound


async def list_all(plane: Plane, exchange: Exchange) -> None:
    await exchange.answer(200, encode(ModelList(data=list(_entries(plane.models()).values()))))


async def retrieve(plane: Plane, exchange: Exchange) -> None:
    wanted = exchange.parameters["model"]
    models = plane.models()
    entry = _entries(models).get(wanted) or next(
        (_entry(wanted, model) for model in models if _whole_name(model) == wanted), None
    )
    if entry is None:
        raise ModelNotFound(f"there is no model {wanted!r}", param="model")
    await exchange.answer(200, encode(entry))


def _entries(models: Iterable[ServedModel]) -> Mapping[str, Model]:
    """Each name once: of several models behind an alias the first that is ready stands for all, and of the versions of
    a model those that are not live have their whole name."""
    entries: dict[str, Model] = {}
    for model in models:
        for name in (model.name if model.live else _whole_name(model), *model.aliases):
            if name not in entries or (model.ready and not entries[name].ready):
                entries[name] = _entry(name, model)
    return entries


def _whole_name(model: ServedModel) -> str:
    return f"{model.name}@{model.version}"


def _entry(name: str, model: ServedModel) -> Model:
    return Model(
        id=name,
        created=model.created,
        root=model.name,
        kind=model.kind,
        ready=model.ready,
        state=model.state,
        reason=model.reason,
    )
