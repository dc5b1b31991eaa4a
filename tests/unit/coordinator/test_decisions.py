from __future__ import annotations

from shoal.coordinator.decisions import KEPT, Decisions
from shoal.router import Reason, RoutingDecision
from shoal.types import ModelId, ModelName, RequestId, WorkerId


def to(worker: str) -> RoutingDecision:
    return RoutingDecision(ModelId(ModelName("fish")), WorkerId(worker), "random", Reason.POLICY, 2)


def test_every_decision_of_a_request_is_told_in_order_and_others_are_not() -> None:
    decisions = Decisions()
    decisions.note(RequestId("a"), to("w1"))
    decisions.note(RequestId("b"), to("w2"))
    decisions.note(RequestId("a"), to("w3"))
    assert decisions.of(RequestId("a")) == (to("w1"), to("w3"))
    assert decisions.of(RequestId("c")) == ()


def test_what_is_kept_is_bounded_and_the_oldest_request_goes_first() -> None:
    decisions = Decisions()
    for number in range(KEPT + 1):
        decisions.note(RequestId(str(number)), to("w1"))
    assert decisions.of(RequestId("0")) == ()
    assert decisions.of(RequestId("1")) == decisions.of(RequestId(str(KEPT))) == (to("w1"),)
    for _ in range(1000):
        decisions.note(RequestId("1"), to("w2"))
    assert len(decisions.of(RequestId("1"))) == 64
