from __future__ import annotations

from collections.abc import Sequence

import pytest

from shoal.errors import ModelUnavailable, Overloaded, ShoalError
from shoal.load_balancer import Health, LeastConnections, Replica
from shoal.model_registry import ModelSpec
from shoal.router import Candidate, Reason, RoutingDecision, route
from shoal.types import ModelId, ModelKind, ModelName, ModelState, WorkerId, WorkerState

MODEL = ModelName("fish")
SPEC = ModelSpec(name=MODEL, kind=ModelKind.GENERATE)
READY, GONE = WorkerState.READY, WorkerState.GONE


class Fleet:
    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self._candidates = candidates

    def candidates(self, model: ModelId, now: float) -> Sequence[Candidate]:
        return self._candidates if model == SPEC.id else ()


def on(
    worker: str,
    model: ModelState = ModelState.READY,
    state: WorkerState = READY,
    *,
    in_flight: int = 0,
    reason: str = "",
) -> Candidate:
    return Candidate(Replica(WorkerId(worker), state, 4, in_flight), model, reason)


def decide(
    candidates: Sequence[Candidate], *, excluded: Sequence[str] = (), lost: Sequence[str] = ()
) -> RoutingDecision:
    health = Health()
    for worker in lost:
        health.connection_lost(WorkerId(worker), 0.0)
    return route(
        SPEC,
        fleet=Fleet(candidates),
        health=health,
        policy=LeastConnections(),
        now=0.0,
        excluded={WorkerId(worker) for worker in excluded},
    )


LOADING, FAILED = ModelState.LOADING, ModelState.FAILED


def test_a_request_goes_to_a_worker_that_has_the_model_ready() -> None:
    decision = decide([on("a", LOADING), on("b", in_flight=2), on("c", in_flight=1)])
    assert decision == RoutingDecision(SPEC, WorkerId("c"), "least_connections", Reason.POLICY, candidates=2)


def test_the_decision_says_when_there_was_no_choice() -> None:
    decision = decide([on("a"), on("b", FAILED), on("c", state=GONE)], lost=["c"])
    assert (decision.worker_id, decision.reason) == ("a", Reason.ONLY_CANDIDATE)


def test_a_retry_goes_to_a_worker_that_was_not_tried() -> None:
    decision = decide([on("a"), on("b", in_flight=3)], excluded=["a"])
    assert (decision.worker_id, decision.reason) == ("b", Reason.RETRY)


def test_an_ejected_worker_is_passed_over() -> None:
    assert decide([on("a"), on("b", in_flight=3)], lost=["a"]).worker_id == "b"


@pytest.mark.parametrize(
    ("candidates", "excluded", "lost", "error", "says"),
    [
        pytest.param([], "", "", ModelUnavailable, "no worker has it", id="nobody has it now"),
        pytest.param([on("a", LOADING)], "", "", ModelUnavailable, "a is loading it", id="it is loading"),
        pytest.param(
            [on("a", state=WorkerState.STARTING)], "", "", ModelUnavailable, "a is loading it", id="its worker starts"
        ),
        pytest.param(
            [on("a", FAILED, reason="no such file")],
            "",
            "",
            ModelUnavailable,
            "a could not load it: no such file",
            id="it could not be loaded",
        ),
        pytest.param(
            [on("a", state=WorkerState.DRAINING)], "", "", ModelUnavailable, "a is draining", id="its worker leaves"
        ),
        pytest.param(
            [on("a", state=GONE, reason="its connection ended"), on("b", LOADING)],
            "a",
            "a",
            ModelUnavailable,
            "a has gone: its connection ended; b is loading it",
            id="one worker has gone and the other is not ready",
        ),
        pytest.param([on("a")], "a", "", ModelUnavailable, "a was tried already", id="all have been tried"),
        pytest.param(
            [on("a")], "", "a", ModelUnavailable, "a failed and is left alone for a while", id="all are ejected"
        ),
        pytest.param([on("a", in_flight=4)], "", "", Overloaded, "is full (1 of 1)", id="all are full"),
        pytest.param(
            [on("a", state=WorkerState.OVERLOADED), on("b", LOADING)],
            "",
            "",
            Overloaded,
            "is full (1 of 2)",
            id="the only ready one is overloaded",
        ),
        pytest.param(
            [on("a"), on("b", in_flight=4)], "a", "", Overloaded, "is full (1 of 2)", id="those not tried are full"
        ),
        pytest.param(
            [on(f"w{i}", LOADING) for i in range(1000)],
            "",
            "",
            ModelUnavailable,
            "w4 is loading it; and 995 more workers",
            id="a large fleet is not listed whole",
        ),
    ],
)
def test_without_a_worker_the_error_says_why(
    candidates: Sequence[Candidate], excluded: str, lost: str, error: type[ShoalError], says: str
) -> None:
    with pytest.raises(error) as caught:
        decide(candidates, excluded=excluded, lost=lost)
    assert type(caught.value) is error
    assert caught.value.message.endswith(says) or says in caught.value.message
    assert caught.value.retry_after == 1.0
