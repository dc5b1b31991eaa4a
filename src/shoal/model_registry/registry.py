"""The models of this deployment by name, version and alias."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from typing import Final

from shoal.errors import ConfigError, Conflict, ModelNotFound
from shoal.messages import ModelInfo
from shoal.model_registry.aliases import Aliases, alias_name, remember
from shoal.model_registry.arguments import DEFAULT_ALIAS, parse_model_id
from shoal.model_registry.spec import DOES, ModelSpec, Placement
from shoal.model_registry.weights import Weights, draw
from shoal.types import ModelId, ModelKind, ModelName, ModelPart, Version

MAX_MODELS: Final = 16_384  # versions counted; metrics have a series a model
FORGET_AFTER: Final = 60.0  # seconds that no worker has had a model which only workers told of: twice a restart
_NAMES_SHOWN: Final = 20  # in an error


class Registry:
    """Aliases point at models and never at aliases, so they cannot form a loop.

    Of a model's versions one is live: it answers to the bare name. That is the first one, until another is promoted.
    ``default`` is the first language model that was added, unless a model or an alias of that name was configured.
    """

    def __init__(self, specs: Iterable[ModelSpec] = (), aliases: Mapping[str, Weights] | None = None) -> None:
        self._specs: dict[ModelId, ModelSpec] = {}
        self._live: dict[ModelName, Version] = {}
        self._aliases = Aliases()
        self._promoted: dict[ModelName, Version] = {}  # a version may be promoted before a worker tells of it
        self._placements: dict[ModelId, Placement] = {}
        self._reserved: dict[ModelId, ModelSpec] = {}
        self._removed: dict[ModelId, None] = {}  # the longest ago first
        self._absent: dict[ModelId, float] = {}  # learned, and since when no worker has had it
        self._resolved: dict[str, ModelSpec] = {}  # names that were asked for; each change empties it
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

    def add(self, spec: ModelSpec, placement: Placement | None = None, *, with_aliases: bool = True) -> None:
        """``placement``: where it shall be, if workers are to load it; None: those that have it have it of their own.
        ``with_aliases``: those of its settings come with it; otherwise they are as they were left.

        Raises :class:`ConfigError` when a name is taken or too many are; then nothing has changed.
        """
        aliases = spec.settings.aliases if with_aliases else ()
        self._check(spec, aliases)
        self._resolved.clear()
        self._specs[spec.id] = spec
        live = self._live.setdefault(spec.name, spec.version)
        if self._promoted.get(spec.name) == spec.version:
            self._live[spec.name] = spec.version
        for alias in aliases:
            self._aliases.lead(alias, {spec.name: 1})
        self._removed.pop(spec.id, None)
        if placement is not None:
            self._placements[spec.id] = placement
            if live != spec.version:  # a worker may tell of that one, and after a restart later than this one is there
                self._promoted.setdefault(spec.name, live)

    @contextmanager
    def reserved(self, spec: ModelSpec) -> Iterator[None]:
        """Keep the version's place free for the block, which has workers load it before clients may find it.

        Raises like :meth:`add`.
        """
        self._check(spec, spec.settings.aliases)
        self._reserved[spec.id] = spec
        try:
            yield
        finally:
            del self._reserved[spec.id]

    def learn(self, info: ModelInfo) -> None:
        """Take in what a worker tells of a model; what was configured stays as it is.

        A version that was removed, or is not to be found yet, stays so. Raises like :meth:`add`, when the worker's
        model is of another kind, and for a name that no configured model could have.
        """
        if info.id in self._removed or info.id in self._reserved:
            return
        known = self._specs.get(info.id)
        if known is None:
            parse_model_id(str(info.id))
            if info.name == DEFAULT_ALIAS:
                raise ConfigError(f"no worker's model can be called '{DEFAULT_ALIAS}'", param="models")
            self.add(ModelSpec(name=info.name, kind=info.kind, version=info.version).completed(info))
        elif known.kind is not info.kind:
            raise ConfigError(f"model '{known.id}' {DOES[known.kind]}, but a worker's {DOES[info.kind]}", param="kind")
        else:
            self._resolved.clear()
            self._specs[info.id] = known.completed(info)

    def forget_absent(self, present: Set[ModelId], now: float) -> Sequence[ModelId]:
        """Take out what only workers told of, once none has had it for :data:`FORGET_AFTER` seconds.

        ``present``: what workers have now. What an alias leads to, or was promoted, stays: an operator named it.
        """
        absent = [spec.id for spec in self._specs.values() if spec.source is None and spec.id not in present]
        named = {target for targets in self._aliases.all().values() for target in targets}
        self._absent = {
            model: self._absent.get(model, now)
            for model in absent
            if not named & {model.name, str(model)} and self._promoted.get(model.name) != model.version
        }
        gone = [model for model, since in self._absent.items() if now - since >= FORGET_AFTER]
        for model in gone:
            self._forget(model)
        return gone

    def remove(self, models: Iterable[ModelId]) -> None:
        """Take versions of one model out, with the aliases that their own settings made.

        Raises :class:`ModelNotFound`; :class:`Conflict` while one of them is live and others would stay, or an alias
        leads to one. Then nothing has changed.
        """
        leaving = [self.resolve_exactly(model) for model in models]
        ids = {spec.id for spec in leaving}
        own = {alias for spec in leaving for alias in spec.settings.aliases if self._aliases.is_alone(alias, spec.name)}
        self._resolved.clear()
        for name in {spec.name for spec in leaving}:
            staying = [spec for spec in self.versions(name) if spec.id not in ids]
            self._check_leaving(name, ids, own, staying)
            if not staying:
                del self._live[name]
                self._promoted.pop(name, None)
                for alias in own:
                    self.unpoint(alias)
        for model in ids:
            del self._specs[model]
            self._placements.pop(model, None)
            self.keep_out(model)

    def keep_out(self, model: ModelId) -> None:
        """Ignore a version that workers have of their own."""
        remember(self._removed, model)

    def point(self, alias: str, targets: Weights, *, known: bool = True) -> None:
        """Let an alias lead to models, each with its weight. Raises :class:`ConfigError`.

        ``known``: they must be there already. Otherwise a worker may tell of them later.
        """
        name = alias_name(alias)
        if not targets or min(targets.values()) < 1:
            raise ConfigError(f"alias '{alias}' needs a model, and weights of at least 1", param="aliases")
        if name in self._live:
            raise ConfigError(f"there are two models called '{alias}'", param="aliases")
        for target in targets:
            if known and self._find(target) is None:
                raise ConfigError(f"alias '{alias}' leads to '{target[:64]}', which is no model", param="aliases")
        self._aliases.check_room([name])
        self._resolved.clear()
        self._aliases.lead(name, targets)

    def unpoint(self, alias: str) -> None:
        """Take an alias away; harmless when it is not there."""
        self._resolved.clear()
        self._aliases.take_away(alias)

    def promote(self, model: ModelId, *, known: bool = True) -> None:
        """Let this version answer to the bare name. Raises :class:`ModelNotFound`, unless it may be told of later."""
        self._resolved.clear()
        if known or model in self._specs:
            self._live[model.name] = self.resolve_exactly(model).version
        self._promoted[model.name] = model.version

    def snapshot(self) -> Registry:
        """A copy as it is now, for :meth:`restore`."""
        made = copy.copy(self)
        vars(made).update({name: value.copy() for name, value in vars(self).items()})
        return made

    def restore(self, snapshot: Registry) -> None:
        """Be again as the snapshot is."""
        vars(self).update(vars(snapshot.snapshot()))

    # -- questions

    def resolve(self, name: str, key: str = "") -> ModelSpec:
        """The model of a name, of ``NAME@VERSION`` or of an alias. Raises :class:`ModelNotFound` with what there is.

        Of an alias with several models the ``key`` chooses, the same one each time, as often as its weight says.
        """
        if (known := self._resolved.get(name)) is not None:
            return known
        targets = self._aliases.get(name)
        wanted = name if targets is None else draw(targets, name, key)
        found = self._find(wanted)
        if targets is None and name == DEFAULT_ALIAS:
            found = found or self._default()
        if found:
            if targets is None or len(targets) == 1:
                self._resolved[name] = found
            return found
        if targets is not None:
            raise ModelNotFound(f"alias '{name}' leads to '{wanted}', which no worker has told of yet", param="model")
        raise ModelNotFound(f"there is no model '{name[:64]}'; {self._what_there_is(name)}", param="model")

    def get(self, model: ModelId) -> ModelSpec | None:
        return self._specs.get(model)

    def resolve_exactly(self, model: ModelId) -> ModelSpec:
        """Raises :class:`ModelNotFound`."""
        if model not in self._specs:
            raise ModelNotFound(f"there is no model '{model}'; {self._what_there_is(str(model))}", param="model")
        return self._specs[model]

    def list(self) -> tuple[ModelSpec, ...]:
        """Every version of every model, in the order they were added."""
        return tuple(self._specs.values())

    def versions(self, name: str) -> tuple[ModelSpec, ...]:
        """In the order they were added; none of a name that is no model's own."""
        return tuple(spec for spec in self._specs.values() if spec.name == name)

    def parts(self, model: ModelId) -> Sequence[ModelPart]:
        """What replicas of this model are copies of: all of it, or each of its shards."""
        spec = self._specs.get(model)
        return (ModelPart(model),) if spec is None else spec.parts()

    def live_version(self, name: ModelName) -> ModelSpec | None:
        """The one that answers to the bare name."""
        version = self._live.get(name)
        return None if version is None else self._specs.get(ModelId(name, version))

    def is_live(self, model: ModelId) -> bool:
        return self._live.get(model.name) == model.version

    def promoted(self) -> Mapping[ModelName, Version]:
        """What was promoted, whether or not a worker has told of it."""
        return self._promoted

    def placements(self) -> Mapping[ModelId, Placement]:
        """Of the versions that workers are to load; what they have of their own has none."""
        return self._placements

    def removed(self) -> Iterable[ModelId]:
        """Versions that were taken out and are to stay out, the longest ago first."""
        return self._removed

    def removed_aliases(self) -> Iterable[ModelName]:
        return self._aliases.removed()

    def all_aliases(self) -> Mapping[ModelName, Weights]:
        return self._aliases.all()

    def aliases(self, spec: ModelSpec) -> tuple[ModelName, ...]:
        """Every other name that leads to this version, ``default`` included where it does."""
        names = {spec.name, str(spec.id)} if self.is_live(spec.id) else {str(spec.id)}
        found = self._aliases.leading_to(names)
        is_default = DEFAULT_ALIAS not in self._live and DEFAULT_ALIAS not in self._aliases and spec == self._default()
        return (*found, DEFAULT_ALIAS) if is_default else found

    def _check(self, spec: ModelSpec, aliases: Sequence[str]) -> None:
        if len(self._specs) >= MAX_MODELS:
            raise ConfigError(f"there are {MAX_MODELS} models already, which is the limit", param="models")
        if spec.id in self._specs:
            raise ConfigError(f"there are two models called '{_shown(spec)}'", param="models")
        if spec.id in self._reserved:
            raise ConfigError(f"model '{_shown(spec)}' is being loaded already", param="models")
        if (live := self._find(spec.name)) and live.kind is not spec.kind:
            raise ConfigError(
                f"model '{spec.id}' {DOES[spec.kind]}, but '{live.id}' {DOES[live.kind]}: versions of one model are of "
                "one kind; give it another name",
                param="models",
            )
        if repeated := [alias for alias in aliases if aliases.count(alias) > 1 or alias == spec.name]:
            raise ConfigError(f"model '{spec.name}' has the alias '{repeated[0]}' twice", param="aliases")
        self._aliases.check_free(spec.name)
        for alias in aliases:
            if alias_name(alias) in self._live:
                raise ConfigError(f"there are two models called '{alias}'", param="models")
            self._aliases.check_free(alias, of=spec.name)
        self._aliases.check_room(aliases)

    def _check_leaving(self, name: ModelName, ids: set[ModelId], own: set[str], staying: Iterable[ModelSpec]) -> None:
        others = [spec.version for spec in staying]
        if others and ModelId(name, self._live[name]) in ids:
            raise Conflict(
                f"'{name}@{self._live[name]}' is the live version: promote another ({', '.join(others)}) first",
                param="model",
            )
        gone = {str(model) for model in ids} | ({name} if not others else set())
        for alias in self._aliases.leading_to(gone):
            if others or alias not in own:
                raise Conflict(
                    f"alias '{alias}' leads to {self._aliases.told(alias)}: point it elsewhere first", param="model"
                )

    def _forget(self, model: ModelId) -> None:
        self._resolved.clear()
        del self._specs[model], self._absent[model]
        if self.is_live(model):
            staying = self.versions(model.name)
            if staying:
                self._live[model.name] = staying[0].version
            else:
                del self._live[model.name]

    def _find(self, name: str) -> ModelSpec | None:
        bare, at, version = name.partition("@")
        if at and not version:
            return None
        found = ModelName(bare)
        return self._specs.get(ModelId(found, Version(version) if version else self._live.get(found, Version(""))))

    def _default(self) -> ModelSpec | None:
        specs = (spec for spec in self._specs.values() if spec.kind is ModelKind.GENERATE)
        first = next(specs, None)
        return first and self._find(first.name)

    def _what_there_is(self, asked: str) -> str:
        if not self._specs:
            return "there are no models yet"
        if others := [spec.version for spec in self._specs.values() if spec.name == asked.partition("@")[0]]:
            return f"of '{asked.partition('@')[0]}' there are the versions {', '.join(others[:_NAMES_SHOWN])}"
        names = [*self._live, *self._aliases]
        if DEFAULT_ALIAS not in names and self._default():
            names.append(DEFAULT_ALIAS)
        shown = ", ".join(f"'{name}'" for name in names[:_NAMES_SHOWN])
        more = len(names) - _NAMES_SHOWN
        return f"there are {shown} and {more} more" if more > 0 else f"there are {shown}"


def _shown(spec: ModelSpec) -> str:
    return spec.name if spec.version == ModelId(spec.name).version else str(spec.id)
