"""Which worker runs a request, and why that one; or why none does."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from shoal.errors import ModelUnavailable, Overloaded
from shoal.load_balancer import Health, Policy
from shoal.model_registry import ModelSpec
from shoal.router.candidates import Candidate, Fleet
from shoal.types import ModelState, WorkerId, WorkerState

RETRY_AFTER: Final = 1.0  # seconds: a load report, an ejection or a start may change things by then
_REASONS_SHOWN: Final = 5  # in an error


class Reason(StrEnum):
    """Why a request went where it went."""

    ONLY_CANDIDATE = "only_candidate"
    POLICY = "policy"  # it chose among several
    RETRY = "retry"  # other workers were tried before


@dataclass(frozen=True, slots=True)
class RoutingDecision:
    model: ModelSpec
    worker_id: WorkerId
    policy: str
    reason: Reason
    candidates: int  # workers with the model ready, healthy and not tried before, full ones included


def route(
    spec: ModelSpec,
    *,
    fleet: Fleet,
    health: Health,
    policy: Policy,
    now: float,
    excluded: Collection[WorkerId] = (),
) -> RoutingDecision:
    """Choose a worker that has the model ready. ``excluded``: tried before.

    Raises :class:`ModelUnavailable` when it is ready nowhere, :class:`Overloaded` when every worker that could take
    the request is full.
    """
    known = fleet.candidates(spec.id, now)
    usable = [
        candidate.replica
        for candidate in known
        if candidate.model_state is ModelState.READY
        and candidate.worker_id not in excluded
        and health.available(candidate.worker_id, now)
    ]
    chosen = policy.choose(usable, now)
    if chosen is not None:
        reason = _reason(len(usable), excluded)
        return RoutingDecision(spec, chosen.worker_id, policy.name, reason, len(usable))
    full = sum(replica.state in (WorkerState.READY, WorkerState.OVERLOADED) for replica in usable)
    if full:
        raise Overloaded(
            f"every worker that could run model '{spec.name}' now is full ({full} of {len(known)})",
            retry_after=RETRY_AFTER,
        )
    raise ModelUnavailable(f"model '{spec.name}' is ready nowhere: {_why(known, excluded)}", retry_after=RETRY_AFTER)


def _reason(candidates: int, excluded: Collection[WorkerId]) -> Reason:
    if excluded:
        return Reason.RETRY
    return Reason.ONLY_CANDIDATE if candidates == 1 else Reason.POLICY


def _why(known: Sequence[Candidate], excluded: Collection[WorkerId]) -> str:
    if not known:
        return "no worker has it"
    shown = [f"{candidate.worker_id} {_state(candidate, excluded)}" for candidate in known[:_REASONS_SHOWN]]
    if len(known) > _REASONS_SHOWN:
        shown.append(f"and {len(known) - _REASONS_SHOWN} more workers")
    return "; ".join(shown)


def _state(candidate: Candidate, excluded: Collection[WorkerId]) -> str:
    """Why a worker that is neither full nor free does not take the request."""
    because = f": {candidate.reason}" if candidate.reason else ""
    if candidate.replica.state is WorkerState.GONE:
        return f"has gone{because}"
    if candidate.model_state is ModelState.FAILED:
        return f"could not load it{because}"
    if candidate.model_state is ModelState.LOADING or candidate.replica.state is WorkerState.STARTING:
        return f"is loading it{because}"
    if candidate.replica.state is WorkerState.DRAINING:
        return "is draining"
    if candidate.worker_id in excluded:
        return "was tried already"
    return "failed and is left alone for a while"
