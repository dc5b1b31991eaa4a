"""The registry as records, a key and a JSON value each, so that any store can keep it.

``models/NAME@VERSION`` has its settings and its placement, ``live/NAME`` the version that was promoted,
``aliases/NAME`` the weights. A value of ``null`` says that the name was taken out and is to stay out, whoever names
it. What only workers tell of has no record: they will tell again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from shoal.config import ModelConfig
from shoal.errors import ConfigError, ShoalError
from shoal.model_registry.arguments import make_spec, parse_model_id
from shoal.model_registry.registry import Registry
from shoal.model_registry.spec import Placement
from shoal.types import FIRST_VERSION, ModelId, ModelName, Version

Records = Mapping[str, bytes]
REMOVED: Final = b"null"


class _Model(msgspec.Struct, frozen=True, omit_defaults=True):
    settings: ModelConfig
    placement: Placement | None = None


def records(registry: Registry) -> dict[str, bytes]:
    """All that is worth keeping, models first and in their order."""
    return {key: msgspec.json.encode(value) for key, value in _values(registry)}


def _values(registry: Registry) -> Iterator[tuple[str, Any]]:
    placements = registry.placements()
    for spec in registry.list():
        if spec.source is not None:
            yield f"models/{spec.id}", _Model(spec.settings, placements.get(spec.id))
    yield from ((f"models/{model}", None) for model in registry.removed())
    yield from ((f"live/{name}", version) for name, version in registry.promoted().items())
    yield from ((f"aliases/{alias}", weights) for alias, weights in registry.all_aliases().items())
    yield from ((f"aliases/{alias}", None) for alias in registry.removed_aliases())


def changes(before: Records, after: Records) -> dict[str, bytes | None]:
    """What a store has to write to follow; None: delete."""
    written: dict[str, bytes | None] = {key: value for key, value in after.items() if before.get(key) != value}
    return written | dict.fromkeys(before.keys() - after.keys())


def restored(configured: Registry, stored: Records) -> Registry:
    """What was configured, overruled by what was stored for every name that the store has.

    Raises :class:`ConfigError` that names the record that cannot be read, or what does not fit together.
    """
    made = Registry()
    kept = records(configured) | dict(stored)
    for kind, read in (("models/", _read_model), ("live/", _read_live), ("aliases/", _read_alias)):
        for key in [key for key in kept if key.startswith(kind)]:
            try:
                read(made, key.removeprefix(kind), kept[key])
            except (msgspec.MsgspecError, ValueError, ShoalError) as error:
                raise ConfigError(f"the record '{key}' of the registry cannot be used: {error}") from error
    return made


def _read_model(registry: Registry, name: str, value: bytes) -> None:
    model = msgspec.json.decode(value, type=_Model | None)
    if model is None:
        registry.keep_out(_model_id(name))
    else:
        # Where its aliases lead has records of its own: they may have been pointed elsewhere since.
        registry.add(make_spec(name, model.settings), model.placement, with_aliases=False)


def _read_live(registry: Registry, name: str, value: bytes) -> None:
    registry.promote(ModelId(ModelName(name), msgspec.json.decode(value, type=Version)), known=False)


def _read_alias(registry: Registry, alias: str, value: bytes) -> None:
    weights = msgspec.json.decode(value, type=dict[str, int] | None)
    if weights is None:
        registry.unpoint(alias)
    else:
        registry.point(alias, weights, known=False)


def _model_id(text: str) -> ModelId:
    name, version = parse_model_id(text)
    return ModelId(name, version or FIRST_VERSION)
