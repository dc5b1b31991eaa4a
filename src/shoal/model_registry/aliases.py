"""Names that lead to models."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Final, TypeVar

from shoal.errors import ConfigError
from shoal.model_registry.arguments import parse_model_id
from shoal.model_registry.weights import Weights
from shoal.types import ModelName

Name = TypeVar("Name")

MAX_ALIASES: Final = 16_384
REMOVED_KEPT: Final = 1024  # names that were taken out, so that nobody brings them back by accident


class Aliases:
    """Each alias with its targets, and the names of those that were taken away. Whether a target is there, the
    registry knows."""

    def __init__(self) -> None:
        self._targets: dict[ModelName, Weights] = {}
        self._removed: dict[ModelName, None] = {}  # the longest ago first

    def __contains__(self, name: str) -> bool:
        return name in self._targets

    def __iter__(self) -> Iterator[ModelName]:
        return iter(self._targets)

    def copy(self) -> Aliases:
        made = copy.copy(self)
        made._targets, made._removed = dict(self._targets), dict(self._removed)
        return made

    def lead(self, alias: str, targets: Weights) -> None:
        self._targets[ModelName(alias)] = dict(targets)
        self._removed.pop(ModelName(alias), None)

    def take_away(self, alias: str) -> None:
        """And remember it; harmless when it is not there."""
        self._targets.pop(ModelName(alias), None)
        remember(self._removed, ModelName(alias))

    def get(self, name: str) -> Weights | None:
        return self._targets.get(ModelName(name))

    def all(self) -> Mapping[ModelName, Weights]:
        return self._targets

    def removed(self) -> Iterable[ModelName]:
        return self._removed

    def leading_to(self, names: Set[str]) -> tuple[ModelName, ...]:
        """Those that have one of these among their targets."""
        return tuple(alias for alias, targets in self._targets.items() if names & targets.keys())

    def is_alone(self, alias: str, target: str) -> bool:
        """Does the alias lead there and nowhere else, as a model's own settings make it?"""
        return self.get(alias) == {target: 1}

    def told(self, alias: str) -> str:
        """Its targets, for an error."""
        return " and ".join(f"'{target}'" for target in self._targets[ModelName(alias)])

    def check_room(self, more: Iterable[str]) -> None:
        """Raises :class:`ConfigError` when there are too many for these beside them."""
        if len(self._targets) + sum(alias not in self for alias in more) > MAX_ALIASES:
            raise ConfigError(f"there may be {MAX_ALIASES} aliases at most", param="aliases")

    def check_free(self, alias: str, *, of: ModelName | None = None) -> None:
        """Raises :class:`ConfigError` for an alias that leads elsewhere than to ``of``."""
        targets = self.get(alias)
        if targets is not None and targets.keys() != {of}:
            raise ConfigError(f"'{alias}' is already an alias of {self.told(alias)}", param="aliases")


def alias_name(text: str) -> ModelName:
    """Raises :class:`ConfigError` for what cannot be an alias."""
    try:
        name, version = parse_model_id(text)
    except ConfigError as error:
        raise ConfigError(f"an alias is a name: {error.message}", param="aliases") from error
    if version is not None:
        raise ConfigError(f"an alias has no version: '{text}'", param="aliases")
    return name


def remember(removed: dict[Name, None], name: Name) -> None:
    removed[name] = None
    if len(removed) > REMOVED_KEPT:
        del removed[next(iter(removed))]
