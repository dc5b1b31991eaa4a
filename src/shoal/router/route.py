"""Which worker runs a request, and why that one; or why none does."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import Final, Protocol

import msgspec

from shoal.errors import ModelUnavailable, Overloaded
from shoal.load_balancer import Health, Pool, Replica, Tier
from shoal.model_registry import ModelSpec
from shoal.types import ModelId, ModelPart, ModelState, WorkerId, WorkerState

RETRY_AFTER: Final = 1.0  # seconds: a load report, an ejection or a start may change things by then
_REASONS_SHOWN: Final = 5  # in an error


class Fleet(Protocol):
    """What the router sees of the fleet."""

    def pool(self, part: ModelPart) -> Pool | None:
        """The replicas of a model, or of one shard of it."""

    def replicas(self, part: ModelPart) -> Sequence[Replica]:
        """The same, those of workers that have just gone included, to say why there is none."""


class Reason(StrEnum):
    """Why a request went where it went. Where several hold, the last of them is told."""

    ONLY_CANDIDATE = "only_candidate"
    POLICY = "policy"  # it chose among several
    SAME_ZONE = "same_zone"  # it chose among several, those of the coordinator's zone
    OTHER_ZONE = "other_zone"  # those of the coordinator's zone are full or away
    SUSPECT = "suspect"  # every worker that is not silent is full or away
    EJECTED = "ejected"  # every worker is full, away or has failed at requests, as this one has
    RETRY = "retry"  # other workers were tried before
    FALLBACK_MODEL = "fallback_model"  # the model that was asked for is full or away


class RoutingDecision(msgspec.Struct, frozen=True):
    model: ModelId
    worker_id: WorkerId
    policy: str
    reason: Reason
    candidates: int  # workers with the model ready, healthy and not tried before, full ones included
    zone: str = ""  # the worker's
    shard: int | None = None
    instead_of: ModelId | None = None  # the model that was asked for, where it is another one


def route(
    spec: ModelSpec,
    *,
    fleet: Fleet,
    health: Health,
    now: float,
    shard: int | None = None,
    excluded: Collection[WorkerId] = (),
    suspects: bool = True,
    instead_of: ModelId | None = None,
) -> RoutingDecision:
    """Choose a worker that has the model, or a shard of it, ready. ``excluded``: tried before. ``suspects``: also one
    that is silent or has failed, where no other can.

    Raises :class:`ModelUnavailable` when it is ready nowhere, :class:`Overloaded` when every worker that could take
    the request is full.
    """
    part = spec.part(shard)
    pool = fleet.pool(part)
    balancing = spec.settings.balancing
    if pool is None or (choice := pool.choose(balancing, health, now, excluded=excluded, suspects=suspects)) is None:
        raise _none(part, pool, fleet, excluded)
    usable = pool.usable(excluded)
    worker = choice.replica.worker
    reason = _reason(usable, choice.tier, pool.zone, bool(excluded), instead_of is not None)
    return RoutingDecision(spec.id, worker.worker_id, balancing, reason, usable, worker.zone, shard, instead_of)


def _reason(candidates: int, tier: Tier, own_zone: str, is_retry: bool, is_fallback: bool) -> Reason:
    if is_fallback:
        return Reason.FALLBACK_MODEL
    if is_retry:
        return Reason.RETRY
    if tier is Tier.SUSPECT:
        return Reason.SUSPECT
    if tier is Tier.EJECTED:
        return Reason.EJECTED
    if candidates == 1:
        return Reason.ONLY_CANDIDATE
    if not own_zone:
        return Reason.POLICY
    return Reason.SAME_ZONE if tier is Tier.LOCAL else Reason.OTHER_ZONE


def _none(
    part: ModelPart, pool: Pool | None, fleet: Fleet, excluded: Collection[WorkerId]
) -> Overloaded | ModelUnavailable:
    full = pool.usable(excluded) if pool else 0
    what = named(part)
    if pool and full:
        return Overloaded(
            f"every worker that could run {what} now is full ({full} of {len(pool)})", retry_after=RETRY_AFTER
        )
    why = _why(fleet.replicas(part), excluded)
    return ModelUnavailable(f"{what} is ready nowhere: {why}", retry_after=RETRY_AFTER)


def named(part: ModelPart) -> str:
    """``model 'fish'``, or ``shard 2 of model 'fish'``."""
    model = f"model '{part.model.name}'"
    return model if part.shard is None else f"shard {part.shard} of {model}"


def _why(known: Sequence[Replica], excluded: Collection[WorkerId]) -> str:
    if not known:
        return "no worker has it"
    shown = [f"{replica.worker_id} {_state(replica, excluded)}" for replica in known[:_REASONS_SHOWN]]
    if len(known) > _REASONS_SHOWN:
        shown.append(f"and {len(known) - _REASONS_SHOWN} more workers")
    return "; ".join(shown)


def _state(replica: Replica, excluded: Collection[WorkerId]) -> str:
    """Why a worker that is neither full nor free does not take the request."""
    worker, model = replica.worker, replica.info
    if worker.state is WorkerState.GONE:
        return f"has gone{_because(worker.reason)}"
    if model.state is ModelState.FAILED:
        return f"could not load it{_because(model.reason)}"
    if model.state is ModelState.LOADING or worker.state is WorkerState.STARTING:
        return f"is loading it{_because(model.reason)}"
    if worker.state is WorkerState.DRAINING:
        return "is draining"
    if replica.worker_id in excluded:
        return "was tried already"
    return "is silent" if worker.suspect else "failed and is left alone for a while"


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""
