"""Rates and bounds of one tenant or model, from a time that is handed in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.config import LimitConfig
from shoal.coordinator.admission.bounds import Bounds, Refusal
from shoal.coordinator.admission.bucket import Bucket
from shoal.coordinator.admission.demand import Demand

ROW = Demand(1, 0)


def bounds(kind: str = "tenant", name: str = "gold", **limits: Any) -> Bounds:
    return Bounds(LimitConfig(**limits), kind=kind, name=name, now=0.0)


def refused(bound: Bounds, demand: Demand = ROW, now: float = 0.0) -> Refusal:
    refusal = bound.refusal(demand, now)
    assert refusal is not None
    return refusal


# -- rates


def test_a_bucket_gives_its_burst_at_once_and_then_its_rate() -> None:
    bucket = Bucket(rate=2.0, size=3.0, now=0.0)
    for _ in range(3):
        assert bucket.wait(1, 0.0) == 0
        bucket.take(1, 0.0)
    assert bucket.wait(1, 0.0) == 0.5
    assert bucket.wait(1, 0.5) == 0
    assert not bucket.is_full(1.4)
    assert bucket.is_full(1.5)


def test_what_is_larger_than_the_bucket_waits_until_it_is_full_and_the_next_for_what_it_took() -> None:
    bucket = Bucket(rate=1.0, size=2.0, now=0.0)
    assert bucket.wait(10, 0.0) == 0
    bucket.take(10, 0.0)
    assert bucket.wait(1, 0.0) == 9
    assert bucket.wait(10, 0.0) == 10


def test_what_was_not_used_comes_back_but_never_more_than_the_bucket_holds() -> None:
    bucket = Bucket(rate=1.0, size=10.0, now=0.0)
    bucket.take(8, 0.0)
    bucket.take(-5, 0.0)
    assert bucket.wait(7, 0.0) == 0
    bucket.take(-100, 0.0)
    assert bucket.wait(10, 0.0) == 0
    bucket.take(10, 0.0)
    assert bucket.wait(1, 0.0) == 1


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(1, 5)), max_size=60))
def test_nobody_gets_more_than_the_burst_and_the_rate(asked: list[tuple[float, int]]) -> None:
    bucket, at, given = Bucket(rate=3.0, size=5.0, now=0.0), 0.0, 0
    for pause, amount in asked:
        at += pause
        if bucket.wait(amount, at) == 0:
            bucket.take(amount, at)
            given += amount
        assert given <= 5.0 + 3.0 * at + 1e-6


# -- bounds


@pytest.mark.parametrize(
    ("limits", "demand", "reason", "message"),
    [
        ({"requests": 2}, ROW, "tenant_requests", "tenant 'gold' is at its limit of 2 requests at a time (2 now)"),
        ({"rows": 9}, Demand(4, 0), "tenant_rows", "tenant 'gold' is at its limit of 9 rows at a time (8 now)"),
        ({"tokens": 99}, Demand(0, 40), "tenant_tokens", "limit of 99 tokens at a time (80 now)"),
        ({"requests_per_second": 2}, ROW, "tenant_requests_per_second", "limit of 2 requests a second"),
        ({"rows_per_second": 9}, Demand(4, 0), "tenant_rows_per_second", "limit of 9 rows a second"),
        ({"tokens_per_second": 90.5}, Demand(0, 40), "tenant_tokens_per_second", "limit of 90.5 tokens a second"),
    ],
)
def test_each_bound_lets_two_in_and_names_itself_to_the_third(
    limits: dict[str, Any], demand: Demand, reason: str, message: str
) -> None:
    bound = bounds(**limits)
    for _ in range(2):
        assert bound.refusal(demand, 0.0) is None
        bound.take(demand, 0.0)
    refusal = refused(bound, demand)
    assert refusal.reason == reason
    assert message in refusal.message
    assert refusal.retry_after


def test_who_has_ended_makes_room() -> None:
    bound = bounds(requests=1, rows=5, tokens=50)
    bound.take(Demand(5, 0), 0.0)
    bound.give_back(Demand(5, 0), None, 1.0)
    assert bound.refusal(Demand(5, 0), 1.0) is None
    bound.take(Demand(0, 50), 1.0)
    bound.give_back(Demand(0, 50), 7, 1.0)
    assert bound.refusal(Demand(0, 50), 1.0) is None


def test_what_is_beyond_a_bound_alone_is_not_told_to_come_back() -> None:
    refusal = refused(bounds(tokens=100), Demand(0, 101))
    assert refusal.retry_after is None
    assert refusal.message == "tenant 'gold' may have 100 tokens at a time; this request has 101"


def test_a_rate_says_when_there_is_enough_again() -> None:
    bound = bounds(requests_per_second=0.5, burst=2.0)
    bound.take(ROW, 0.0)
    assert refused(bound).retry_after == 2.0
    assert bound.refusal(ROW, 2.0) is None


def test_tokens_are_charged_as_they_were_used() -> None:
    bound = bounds(tokens_per_second=100)
    bound.take(Demand(0, 100), 0.0)
    bound.give_back(Demand(0, 100), 10, 0.0)
    assert bound.refusal(Demand(0, 90), 0.0) is None
    bound.take(Demand(0, 90), 0.0)
    bound.give_back(Demand(0, 90), 290, 0.0)
    assert refused(bound, Demand(0, 1)).retry_after == pytest.approx(2.01)


def test_tensors_have_no_tokens_and_generations_no_rows() -> None:
    bound = bounds(tokens=1, rows=1)
    bound.take(Demand(1, 0), 0.0)
    assert bound.refusal(Demand(0, 1), 0.0) is None


def test_who_names_no_tenant_is_told_so_and_a_model_is_called_one() -> None:
    nameless, model = bounds(name="", requests=1), bounds(kind="model", name="fish", requests=1)
    nameless.take(ROW, 0.0)
    model.take(ROW, 0.0)
    assert refused(nameless).message.startswith("whoever names no tenant is at its limit")
    assert refused(model)[:2] == ("model_requests", "model 'fish' is at its limit of 1 requests at a time (1 now)")


def test_it_is_idle_when_a_new_one_would_be_the_same() -> None:
    bound = bounds(requests=5, tokens_per_second=10)
    assert bound.is_idle(0.0)
    bound.take(Demand(0, 10), 0.0)
    assert not bound.is_idle(5.0)
    bound.give_back(Demand(0, 10), 10, 5.0)
    assert bound.is_idle(5.0)
    bound.take(Demand(0, 10), 5.0)
    bound.give_back(Demand(0, 10), 10, 5.0)
    assert not bound.is_idle(5.5)


@given(st.lists(st.one_of(st.integers(1, 9), st.none()), max_size=80))
def test_what_is_held_never_passes_the_bound_and_comes_back_to_nothing(steps: list[int | None]) -> None:
    bound, held = bounds(rows=20, requests=4), list[Demand]()
    for step in steps:
        if step is None:
            if held:
                bound.give_back(held.pop(0), None, 0.0)
        elif bound.refusal(demand := Demand(step, 0), 0.0) is None:
            bound.take(demand, 0.0)
            held.append(demand)
        assert sum(demand.rows for demand in held) <= 20
        assert len(held) <= 4
    for demand in held:
        bound.give_back(demand, None, 0.0)
    assert bound.is_idle(0.0)
