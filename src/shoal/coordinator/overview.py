"""What an operator sees: the models and the workers as they are now."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from shoal.clock import now
from shoal.cluster import Member
from shoal.coordinator.control import Control
from shoal.coordinator.fleet import Fleet
from shoal.coordinator.in_flight import InFlight
from shoal.messages import ModelInfo
from shoal.model_registry import ModelSpec, Registry, Weights
from shoal.types import ModelId, ModelName, TensorSpec


class ReplicaView(msgspec.Struct, frozen=True):
    worker: str
    state: str
    reason: str = ""
    shard: int | None = None


class ModelView(msgspec.Struct, frozen=True):
    """One version of a model."""

    name: str
    version: str
    kind: str
    live: bool  # it answers to the bare name
    ready: bool
    aliases: tuple[str, ...]
    uri: str  # empty: only its workers know
    placement: str  # which workers shall have it; empty: those that have it of their own
    replicas: list[ReplicaView]
    refusals: list[ReplicaView]  # workers that were asked to load it and could not
    in_flight: int
    requests: int  # since the coordinator's start
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batchable: bool | None
    quantized: bool
    context_length: int
    shards: int


class ModelsView(msgspec.Struct, frozen=True):
    models: list[ModelView]
    aliases: Mapping[ModelName, Weights]


class HeldView(msgspec.Struct, frozen=True):
    """A model as its worker has it."""

    model: str
    state: str
    reason: str
    shard: int | None


class WorkerView(msgspec.Struct, frozen=True):
    id: str
    address: str
    state: str
    suspect: bool  # silent for too long
    zone: str
    role: str
    capacity: int
    in_flight: int
    waiting: int
    kv_used: float
    weight: float
    cpus: int
    memory_bytes: int
    heard: float  # seconds ago
    models: list[HeldView]


class Overview:
    def __init__(self, *, registry: Registry, fleet: Fleet, in_flight: InFlight, control: Control) -> None:
        self._registry = registry
        self._fleet = fleet
        self._in_flight = in_flight
        self._control = control

    def models(self) -> ModelsView:
        replicas: dict[ModelId, list[ReplicaView]] = {}
        for member in self._fleet.members():
            for info in member.told_models:
                replicas.setdefault(info.id, []).append(_replica(member, info))
        models = [self._model(spec, replicas.get(spec.id, [])) for spec in self._registry.list()]
        return ModelsView(models, self._registry.all_aliases())

    def model(self, model: ModelId) -> ModelView:
        """Raises :class:`~shoal.errors.ModelNotFound`."""
        spec = self._registry.resolve_exactly(model)
        infos = [(member, info) for member in self._fleet.members() for info in member.told_models]
        return self._model(spec, [_replica(member, info) for member, info in infos if info.id == model])

    def workers(self) -> list[WorkerView]:
        return [_worker(member, now()) for member in self._fleet.members()]

    def _model(self, spec: ModelSpec, replicas: list[ReplicaView]) -> ModelView:
        refusals = [
            ReplicaView(worker, "failed", reason, part.shard)
            for (_, part), (worker, reason) in self._control.refused.items()
            if part.model == spec.id
        ]
        placement = self._registry.placements().get(spec.id)
        return ModelView(
            name=spec.name,
            version=spec.version,
            kind=spec.kind,
            live=self._registry.is_live(spec.id),
            ready=self._fleet.is_ready(spec.id),
            aliases=self._registry.aliases(spec),
            uri=spec.settings.uri,
            placement="" if placement is None else str(placement),
            replicas=replicas,
            refusals=refusals,
            in_flight=self._in_flight.running.get(spec.id, 0),
            requests=self._in_flight.begun.get(spec.id, 0),
            inputs=spec.inputs,
            outputs=spec.outputs,
            batchable=spec.batchable,
            quantized=spec.settings.quantized,
            context_length=spec.context_length,
            shards=len(spec.parts()),
        )


def _replica(member: Member, info: ModelInfo) -> ReplicaView:
    return ReplicaView(member.worker_id, info.state, info.reason, info.shard)


def _worker(member: Member, now: float) -> WorkerView:
    registration = member.registration
    return WorkerView(
        id=member.worker_id,
        address=registration.address,
        state=member.state,
        suspect=member.suspect,
        zone=member.zone,
        role=registration.role,
        capacity=member.capacity,
        in_flight=member.in_flight,
        waiting=member.load.waiting,
        kv_used=member.load.kv_used,
        weight=member.weight,
        cpus=registration.resources.cpus,
        memory_bytes=registration.resources.memory_bytes,
        heard=round(max(0.0, now - member.heard), 3),
        models=[HeldView(str(info.id), info.state, info.reason, info.shard) for info in member.told_models],
    )
