from __future__ import annotations

import pytest

from shoal.types import ModelState, WorkerState
from shoal.worker.lifecycle import worker_state

STARTING, READY, OVERLOADED, DRAINING, GONE = WorkerState
LOADING, LOADED, FAILED = ModelState


@pytest.mark.parametrize(
    ("was", "models", "in_flight", "draining", "becomes"),
    [
        (STARTING, [LOADING], 0, False, STARTING),
        (STARTING, [LOADING, LOADED], 0, False, READY),
        (STARTING, [LOADING, FAILED], 0, False, STARTING),
        (STARTING, [FAILED], 0, False, READY),  # alive and answering, with a reason
        (STARTING, [], 0, False, READY),
        (READY, [LOADED], 9, False, READY),
        (READY, [LOADED], 10, False, OVERLOADED),
        (OVERLOADED, [LOADED], 9, False, OVERLOADED),  # not before it is below nine tenths
        (OVERLOADED, [LOADED], 8, False, READY),
        (READY, [LOADING], 0, False, STARTING),  # its only engine has died and is starting again
        (READY, [LOADED], 3, True, DRAINING),
        (STARTING, [LOADING], 0, True, DRAINING),
        (GONE, [LOADED], 0, False, GONE),
        (GONE, [LOADED], 0, True, GONE),
    ],
)
def test_the_state_follows_from_what_the_worker_holds(
    was: WorkerState, models: list[ModelState], in_flight: int, draining: bool, becomes: WorkerState
) -> None:
    assert worker_state(was, models, in_flight=in_flight, capacity=10, draining=draining) is becomes
