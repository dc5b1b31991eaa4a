"""The models of this deployment by name and alias."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from shoal.errors import ConfigError, ModelNotFound
from shoal.messages import ModelInfo
from shoal.model_registry.arguments import DEFAULT_ALIAS
from shoal.model_registry.spec import ModelSpec
from shoal.types import ModelKind, ModelName

MAX_MODELS: Final = 1024  # metrics have a series a model
_NAMES_SHOWN: Final = 20  # in an error


class Registry:
    """Aliases point at models and never at aliases, so they cannot form a loop.

    ``default`` is the first language model that was added, unless a model or an alias of that name was configured.
    """

    def __init__(self, specs: Iterable[ModelSpec] = ()) -> None:
        self._specs: dict[ModelName, ModelSpec] = {}
        self._aliases: dict[ModelName, ModelName] = {}
        for spec in specs:
            self.add(spec)

    def __contains__(self, name: str) -> bool:
        """Is this a model's own name? Aliases are not."""
        return name in self._specs

    def __len__(self) -> int:
        return len(self._specs)

    def add(self, spec: ModelSpec) -> None:
        """Raises :class:`ConfigError` when a name is taken or too many are; then nothing has changed."""
        if len(self._specs) >= MAX_MODELS:
            raise ConfigError(f"there are {MAX_MODELS} models already, which is the limit", param="models")
        if repeated := [alias for alias in spec.aliases if spec.aliases.count(alias) > 1 or alias == spec.name]:
            raise ConfigError(f"model '{spec.name}' has the alias '{repeated[0]}' twice", param="aliases")
        for name in (spec.name, *spec.aliases):
            if name in self._specs:
                raise ConfigError(f"there are two models called '{name}'", param="models")
            if name in self._aliases:
                raise ConfigError(f"'{name}' is already an alias of '{self._aliases[name]}'", param="aliases")
        self._specs[spec.name] = spec
        self._aliases |= dict.fromkeys(spec.aliases, spec.name)

    def learn(self, info: ModelInfo) -> None:
        """Take in a model that a worker told of; what was configured stays as it is. Raises like :meth:`add`."""
        if info.name not in self._specs:
            self.add(ModelSpec(name=info.name, kind=info.kind, version=info.version, inputs=info.inputs))

    def resolve(self, name: str) -> ModelSpec:
        """The model of a name or alias. Raises :class:`ModelNotFound` that lists what there is."""
        key = ModelName(name)
        if found := self._specs.get(self._aliases.get(key, key)):
            return found
        if name == DEFAULT_ALIAS and (default := self._default()):
            return default
        raise ModelNotFound(f"there is no model '{name[:64]}'; {self._what_there_is()}", param="model")

    def list(self) -> tuple[ModelSpec, ...]:
        """All models, in the order they were added."""
        return tuple(self._specs.values())

    def aliases(self, spec: ModelSpec) -> tuple[ModelName, ...]:
        """Every other name a model answers to, ``default`` included where it is that."""
        if DEFAULT_ALIAS in self._specs or DEFAULT_ALIAS in self._aliases or spec != self._default():
            return spec.aliases
        return (*spec.aliases, DEFAULT_ALIAS)

    def _default(self) -> ModelSpec | None:
        return next((spec for spec in self._specs.values() if spec.kind is ModelKind.GENERATE), None)

    def _what_there_is(self) -> str:
        if not self._specs:
            return "there are no models yet"
        shown = ", ".join(f"'{name}'" for name in [*self._specs, *self._aliases][:_NAMES_SHOWN])
        more = len(self._specs) + len(self._aliases) - _NAMES_SHOWN
        return f"there are {shown} and {more} more" if more > 0 else f"there are {shown}"
