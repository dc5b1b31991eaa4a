"""Which workers shall load or let go of which models: plain functions over what is wanted and what is there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from shoal.cluster.membership import Member
from shoal.errors import ConfigError, ModelLoadFailed
from shoal.model_registry import ModelSpec, Placement, Registry
from shoal.types import ModelId, ModelPart, ModelState, WorkerId, WorkerState

GIB: Final = 2**30
_TAKES_MODELS: Final = frozenset({WorkerState.STARTING, WorkerState.READY, WorkerState.OVERLOADED})


@dataclass(frozen=True, slots=True)
class Have:
    """A worker shall load a model, or one shard of it."""

    worker_id: WorkerId
    spec: ModelSpec
    shard: int | None = None


@dataclass(frozen=True, slots=True)
class Drop:
    """A worker shall let a model go."""

    worker_id: WorkerId
    model: ModelId


Order = Have | Drop
Refusals = Collection[tuple[str, ModelPart]]  # the instance of a worker, and what it could not load


def choose(spec: ModelSpec, placement: Placement, members: Sequence[Member], registry: Registry) -> list[Have]:
    """Who shall load a model that nobody has yet.

    Raises :class:`ConfigError` for a worker that is not there, :class:`ModelLoadFailed` that names what is missing
    when it does not fit.
    """
    able = {member.worker_id: member for member in members if member.state in _TAKES_MODELS}
    if unknown := [worker for worker in placement.workers if worker not in able]:
        raise ConfigError(
            f"there is no worker '{unknown[0][:64]}' that takes models; there are {', '.join(sorted(able)) or 'none'}",
            param="workers",
        )
    if not able:
        raise ModelLoadFailed("there is no worker that could load a model")
    wanted = [able[worker] for worker in placement.workers] or list(able.values())
    lacks = {member.worker_id: lack for member in wanted if (lack := missing(spec, member, registry))}
    fitting = _freest(member for member in wanted if member.worker_id not in lacks)
    count = len(wanted) if placement.replicas is None else placement.replicas
    if len(fitting) < count:
        reasons = "; ".join(lacks.values()) or f"there are {len(wanted)} workers"
        raise ModelLoadFailed(f"model '{spec.id}' does not fit on {count} workers: {reasons}")
    # Each shard begins with another worker, so that a few replicas spread over all of them.
    return [
        Have(fitting[(turn + place) % len(fitting)].worker_id, spec, part.shard)
        for turn, part in enumerate(spec.parts())
        for place in range(count)
    ]


def plan(registry: Registry, members: Sequence[Member], refused: Refusals = ()) -> list[Order]:
    """What has to be done so that the workers have what the registry wants of them.

    Models that were removed go. Of a model that was loaded while serving, replicas that are missing come, on workers
    that have not refused it; there are never too many, as a worker may have one of its own.
    """
    able = [member for member in members if member.state in _TAKES_MODELS]
    removed = set(registry.removed())
    orders: list[Order] = [
        Drop(member.worker_id, model)
        for member in able
        for model in dict.fromkeys(info.id for info in member.told_models)
        if model in removed
    ]
    for model, placement in registry.placements().items():
        spec = registry.resolve_exactly(model)
        for part in spec.parts():
            orders += _replicas(part, spec, placement, able, refused, registry)
    return orders


def _replicas(
    part: ModelPart,
    spec: ModelSpec,
    placement: Placement,
    able: Sequence[Member],
    refused: Refusals,
    registry: Registry,
) -> list[Have]:
    """Who shall load a model, or a shard of it, too."""
    states = {member.worker_id: info.state for member in able for info in member.told_models if info.part == part}
    fitting = _freest(
        member
        for member in able
        if member.worker_id not in states
        and (member.registration.instance, part) not in refused
        and not missing(spec, member, registry)
    )
    if placement.workers:
        fitting = [member for member in fitting if member.worker_id in placement.workers]
    elif placement.replicas is not None:
        there = sum(state is not ModelState.FAILED for state in states.values())
        fitting = fitting[: max(0, placement.replicas - there)]
    return [Have(member.worker_id, spec, part.shard) for member in fitting]


def missing(spec: ModelSpec, member: Member, registry: Registry) -> str:
    """What a worker lacks for one more model, in words; empty where nothing, or where its needs are not known."""
    needs, has = spec.settings.resources, member.registration.resources
    if needs.cpus and has.cpus and needs.cpus > has.cpus:
        return f"{member.worker_id} has {has.cpus} cores and it needs {needs.cpus}"
    free = has.memory_bytes - _used(member, registry)
    if needs.memory_bytes and has.memory_bytes and needs.memory_bytes > free:
        return (
            f"{member.worker_id} has {max(0, free) / GIB:.1f} of {has.memory_bytes / GIB:.1f} GiB left for models and "
            f"it needs {needs.memory_bytes / GIB:.1f}"
        )
    return ""


def _freest(members: Iterable[Member]) -> list[Member]:
    """Those with the most free places first; among equals those with fewer models."""
    return sorted(members, key=lambda m: (m.in_flight - m.capacity, len(m.told_models), m.worker_id))


def _used(member: Member, registry: Registry) -> int:
    """Bytes that the models of a worker are known to need."""
    specs = [spec for info in member.told_models if (spec := registry.get(info.id))]
    return sum(spec.settings.resources.memory_bytes for spec in specs)
