"""When a second worker is asked: late enough to be rare, and never for more than a share of the requests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.load_balancer.hedging import Hedging


def test_nobody_is_asked_twice_before_it_is_known_how_long_answers_take() -> None:
    hedging = Hedging(0.9, 0.05)
    for _ in range(19):
        hedging.observe(0.1)
        assert hedging.begin() is None
    hedging.observe(0.1)
    assert hedging.begin() == pytest.approx(0.11)


def test_the_wait_is_the_quantile_of_the_last_answers() -> None:
    hedging = Hedging(0.9, 0.05)
    for number in range(100):
        hedging.observe(number / 100)
    assert hedging.begin() == pytest.approx(0.99)
    for _ in range(200):
        hedging.observe(5.0)
    assert hedging.begin() == pytest.approx(5.5)


@given(st.lists(st.floats(0, 100), min_size=20, max_size=300), st.floats(0.5, 1.0))
def test_about_as_many_wait_longer_as_the_quantile_says(waits: list[float], quantile: float) -> None:
    hedging = Hedging(quantile, 0.05)
    for wait in waits:
        hedging.observe(wait)
    last = waits[-200:]
    delay = hedging.begin()
    assert delay is not None
    assert sum(wait > delay for wait in last) <= (1 - quantile) * len(last) + 1


def test_second_requests_are_a_share_of_all() -> None:
    hedging = Hedging(0.9, 0.05)
    for _ in range(20):
        hedging.observe(0.1)
    second = 0
    for _ in range(1000):
        hedging.begin()
        second += hedging.may_ask_again()
    assert 45 <= second <= 55
