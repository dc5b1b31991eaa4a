"""What state a worker is in, from what it holds: a plain function, so that nobody has to keep the state in step."""

from __future__ import annotations

from collections.abc import Iterable

from shoal.types import ModelState, WorkerState

RELIEVED_BELOW = 0.9  # of the capacity: an overloaded worker takes requests again only below it, or it would flap


def worker_state(
    was: WorkerState, models: Iterable[ModelState], *, in_flight: int, capacity: int, draining: bool
) -> WorkerState:
    """The state that follows ``was``. Failed models do not stop the others from being served."""
    if was is WorkerState.GONE or draining:
        return WorkerState.GONE if was is WorkerState.GONE else WorkerState.DRAINING
    states = list(models)
    if ModelState.READY not in states and ModelState.LOADING in states:
        return WorkerState.STARTING
    limit = capacity * RELIEVED_BELOW if was is WorkerState.OVERLOADED else capacity
    return WorkerState.OVERLOADED if in_flight >= limit else WorkerState.READY
