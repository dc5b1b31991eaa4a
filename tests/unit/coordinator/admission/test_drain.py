"""How fast requests leave, and the advice that follows."""

from __future__ import annotations

import pytest

from shoal.coordinator.admission.drain import LONGEST_RETRY_AFTER, RETRY_AFTER, Drain


def drained(rate: float, seconds: float, *, ask_each: float = 0.1, drain: Drain | None = None) -> Drain:
    """Requests of one leave at a rate, from 0 on, while somebody asks."""
    drain = drain or Drain()
    steps = round(seconds / ask_each)
    left = 0
    for step in range(steps + 1):
        at = step * ask_each
        while left < at * rate - 1e-9:
            drain.left(1)
            left += 1
        drain.per_second(at)
    return drain


def test_nothing_is_known_before_somebody_has_left() -> None:
    drain = Drain()
    assert drain.per_second(0.0) is None
    assert drain.seconds_for(1000, 0.1) == RETRY_AFTER


def test_the_rate_is_that_at_which_they_leave() -> None:
    assert drained(200, 3).per_second(3.0) == pytest.approx(200, rel=0.05)


def test_a_few_that_leave_slowly_are_measured_for_longer() -> None:
    drain = drained(0.5, 40)
    assert drain.per_second(40.0) == pytest.approx(0.5, rel=0.3)


def test_the_advice_is_the_time_for_so_much_within_reason() -> None:
    drain = drained(200, 3)
    assert drain.seconds_for(1000, 3.0) == pytest.approx(5, rel=0.05)
    assert drain.seconds_for(1, 3.0) == RETRY_AFTER
    assert drain.seconds_for(10**9, 3.0) == LONGEST_RETRY_AFTER


def test_when_nobody_leaves_any_more_the_advice_grows() -> None:
    drain = drained(200, 3)
    before = drain.seconds_for(1000, 3.0)
    for second in range(4, 60):
        drain.per_second(float(second))
    assert drain.seconds_for(1000, 60.0) > 2 * before


def test_the_time_in_which_nobody_asked_does_not_count() -> None:
    drain = drained(200, 3)
    drain.per_second(100.0)
    assert drain.per_second(100.1) == pytest.approx(200, rel=0.05)
