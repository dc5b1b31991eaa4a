"""The models that the command line and the configuration file name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shoal.cluster import deal_shards
from shoal.config import Config
from shoal.errors import ConfigError
from shoal.model_registry import ModelSpec, Weights, make_spec, parse_model_argument
from shoal.types import ModelPart


def configured_models(config: Config) -> list[ModelSpec]:
    """Raises :class:`ConfigError` for one that cannot be understood."""
    return [*_named(config), *_of_file(config)]


def configured_aliases(config: Config) -> dict[str, Weights]:
    return {alias: {targets: 1} if isinstance(targets, str) else targets for alias, targets in config.aliases.items()}


def own_parts(config: Config) -> list[tuple[ModelSpec, ModelPart]]:
    """What a worker loads: the models of its command line, and of the file's those that ``worker.replicas`` names.

    Raises :class:`ConfigError` for a name there that means nothing.
    """
    chosen = _of_file(config)
    parts = [(spec, part) for spec in _named(config) for part in _parts(spec)]
    if not config.worker.replicas:
        return parts + [(spec, part) for spec in chosen for part in _parts(spec)]
    found: dict[ModelPart, ModelSpec] = {}
    for text in config.worker.replicas:
        matching = list(_matching(text, chosen))
        if not matching:
            there = ", ".join(str(part) for spec in chosen for part in _parts(spec)) or "none"
            raise ConfigError(f"there is no model '{text}' in the file; there are {there}", param="worker.replicas")
        found |= {part: spec for spec, part in matching}
    return parts + [(spec, part) for part, spec in found.items()]


def dealt_replicas(config: Config) -> list[tuple[str, ...]]:
    """What each worker of ``shoal serve`` loads of the file's models. All of it everywhere where nothing has shards."""
    shards = {
        str(spec.id): None if spec.settings.shards is None else spec.settings.shards.count for spec in _of_file(config)
    }
    if not any(shards.values()):
        return [()] * config.serve.workers
    return deal_shards(shards, config.serve.workers)


def _named(config: Config) -> list[ModelSpec]:
    return [parse_model_argument(argument) for argument in config.worker.models]


def _of_file(config: Config) -> list[ModelSpec]:
    return [make_spec(model_id, settings) for model_id, settings in config.models.items()]


def _parts(spec: ModelSpec) -> Sequence[ModelPart]:
    shards = spec.settings.shards
    return [ModelPart(spec.id, shard) for shard in (range(shards.count) if shards else (None,))]


def _matching(text: str, specs: Iterable[ModelSpec]) -> Iterable[tuple[ModelSpec, ModelPart]]:
    """Without a version all of them are meant, without a shard all of those."""
    model, mark, shard = text.partition("#")
    name, at, version = model.partition("@")
    for spec in specs:
        for part in _parts(spec):
            is_meant = spec.name == name and (not at or spec.version == version)
            if is_meant and (not mark or str(part.shard) == shard):
                yield spec, part
