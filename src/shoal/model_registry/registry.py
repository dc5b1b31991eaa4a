"""The models of this deployment by name, version and alias."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Final

from shoal.errors import ConfigError, ModelNotFound
from shoal.messages import ModelInfo
from shoal.model_registry.arguments import DEFAULT_ALIAS, parse_model_id
from shoal.model_registry.spec import ModelSpec
from shoal.types import ModelId, ModelKind, ModelName, ModelPart, Version

MAX_MODELS: Final = 16_384  # versions counted; metrics have a series a model
_NAMES_SHOWN: Final = 20  # in an error

Weights = Mapping[str, int]  # of what an alias points at, NAME or NAME@VERSION


class Registry:
    """Aliases point at models and never at aliases, so they cannot form a loop.

    Of a model's versions one is live: it answers to the bare name. That is the first one, until another is promoted.
    ``default`` is the first language model that was added, unless a model or an alias of that name was configured.
    """

    def __init__(self, specs: Iterable[ModelSpec] = (), aliases: Mapping[str, Weights] | None = None) -> None:
        self._specs: dict[ModelId, ModelSpec] = {}
        self._live: dict[ModelName, Version] = {}
        self._aliases: dict[ModelName, Weights] = {}
        for spec in specs:
            self.add(spec)
        for alias, targets in (aliases or {}).items():
            self.point(alias, targets)

    def __contains__(self, name: str) -> bool:
        """Is this a model's own name? Aliases are not."""
        return name in self._live

    def __len__(self) -> int:
        return len(self._specs)

    # -- changes

    def add(self, spec: ModelSpec) -> None:
        """Raises :class:`ConfigError` when a name is taken or too many are; then nothing has changed."""
        aliases = spec.settings.aliases
        if len(self._specs) >= MAX_MODELS:
            raise ConfigError(f"there are {MAX_MODELS} models already, which is the limit", param="models")
        if spec.id in self._specs:
            raise ConfigError(f"there are two models called '{_shown(spec)}'", param="models")
        if repeated := [alias for alias in aliases if aliases.count(alias) > 1 or alias == spec.name]:
            raise ConfigError(f"model '{spec.name}' has the alias '{repeated[0]}' twice", param="aliases")
        if spec.name in self._aliases:
            raise ConfigError(f"'{spec.name}' is already an alias of {self._targets(spec.name)}", param="aliases")
        for alias in aliases:
            self._check_free(alias, of=spec.name)
        self._specs[spec.id] = spec
        self._live.setdefault(spec.name, spec.version)
        self._aliases |= {ModelName(alias): {spec.name: 1} for alias in aliases}

    def learn(self, info: ModelInfo) -> None:
        """Take in a model that a worker told of; what was configured stays as it is. Raises like :meth:`add`."""
        if info.id not in self._specs:
            self.add(
                ModelSpec(
                    name=info.name, kind=info.kind, version=info.version, inputs=info.inputs, outputs=info.outputs
                )
            )

    def point(self, alias: str, targets: Weights) -> None:
        """Let an alias lead to models, each with its weight. Raises :class:`ConfigError`."""
        name, version = parse_model_id(alias)
        if version is not None:
            raise ConfigError(f"an alias has no version: '{alias}'", param="aliases")
        if not targets or min(targets.values()) < 1:
            raise ConfigError(f"alias '{alias}' needs a model, and weights of at least 1", param="aliases")
        if name in self._live:
            raise ConfigError(f"there are two models called '{alias}'", param="aliases")
        for target in targets:
            if self._find(target) is None:
                raise ConfigError(f"alias '{alias}' leads to '{target}', which is no model", param="aliases")
        self._aliases[name] = dict(targets)

    def promote(self, model: ModelId) -> None:
        """Let this version answer to the bare name. Raises :class:`ModelNotFound`."""
        self._live[model.name] = self.resolve(str(model)).version

    # -- questions

    def resolve(self, name: str, key: str = "") -> ModelSpec:
        """The model of a name, of ``NAME@VERSION`` or of an alias. Raises :class:`ModelNotFound` with what there is.

        Of an alias with several models the ``key`` chooses, the same one each time, as often as its weight says.
        """
        targets = self._aliases.get(ModelName(name))
        if found := self._find(name if targets is None else _draw(targets, name, key)):
            return found
        if name == DEFAULT_ALIAS and (default := self._default()):
            return default
        raise ModelNotFound(f"there is no model '{name[:64]}'; {self._what_there_is()}", param="model")

    def list(self) -> tuple[ModelSpec, ...]:
        """Every version of every model, in the order they were added."""
        return tuple(self._specs.values())

    def parts(self, model: ModelId) -> Sequence[ModelPart]:
        """What replicas of this model are copies of: all of it, or each of its shards."""
        spec = self._specs.get(model)
        shards = spec and spec.settings.shards
        return [ModelPart(model, shard) for shard in (range(shards.count) if shards else (None,))]

    def is_live(self, model: ModelId) -> bool:
        return self._live.get(model.name) == model.version

    def aliases(self, spec: ModelSpec) -> tuple[ModelName, ...]:
        """Every other name that leads to this version, ``default`` included where it does."""
        names = {spec.name, str(spec.id)} if self.is_live(spec.id) else {str(spec.id)}
        found = tuple(alias for alias, targets in self._aliases.items() if names & targets.keys())
        is_default = DEFAULT_ALIAS not in self._live and DEFAULT_ALIAS not in self._aliases and spec == self._default()
        return (*found, DEFAULT_ALIAS) if is_default else found

    def _find(self, name: str) -> ModelSpec | None:
        bare, _, version = name.partition("@")
        found = ModelName(bare)
        return self._specs.get(ModelId(found, Version(version) if version else self._live.get(found, Version(""))))

    def _check_free(self, alias: str, *, of: ModelName) -> None:
        if alias in self._live:
            raise ConfigError(f"there are two models called '{alias}'", param="models")
        targets = self._aliases.get(ModelName(alias))
        if targets is not None and targets.keys() != {of}:
            raise ConfigError(f"'{alias}' is already an alias of {self._targets(ModelName(alias))}", param="aliases")

    def _targets(self, alias: ModelName) -> str:
        return " and ".join(f"'{target}'" for target in self._aliases[alias])

    def _default(self) -> ModelSpec | None:
        specs = (spec for spec in self._specs.values() if spec.kind is ModelKind.GENERATE)
        first = next(specs, None)
        return first and self._find(first.name)

    def _what_there_is(self) -> str:
        if not self._specs:
            return "there are no models yet"
        names = [*self._live, *self._aliases]
        shown = ", ".join(f"'{name}'" for name in names[:_NAMES_SHOWN])
        more = len(names) - _NAMES_SHOWN
        return f"there are {shown} and {more} more" if more > 0 else f"there are {shown}"


def _shown(spec: ModelSpec) -> str:
    return spec.name if spec.version == ModelId(spec.name).version else str(spec.id)


def _draw(targets: Weights, alias: str, key: str) -> str:
    """The target whose share of the circle a hash of the key falls into."""
    if len(targets) == 1:
        return next(iter(targets))
    digest = blake2b(f"{alias}\0{key}".encode(errors="replace"), digest_size=8).digest()
    point = int.from_bytes(digest, "little") * sum(targets.values()) >> 64
    for target, weight in targets.items():
        point -= weight
        if point < 0:
            return target
    raise AssertionError("the point lies below the sum of the weights")
