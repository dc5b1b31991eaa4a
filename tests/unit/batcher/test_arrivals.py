from __future__ import annotations

import math

import pytest

from shoal.batcher.arrivals import Arrivals

LONGEST = 0.05  # seconds


def test_who_was_answered_is_expected_until_as_many_have_come() -> None:
    arrivals = Arrivals(LONGEST)
    assert (arrivals.expected, arrivals.gap) == (0, math.inf)
    arrivals.answered(2, 1.0)
    assert arrivals.expected == 2
    arrivals.arrived(1.001)
    arrivals.arrived(1.002)
    assert arrivals.expected == 0
    arrivals.arrived(1.003)
    assert (arrivals.expected, arrivals.burst) == (0, math.inf)


def test_the_first_one_behind_answers_has_a_gap_of_its_own() -> None:
    arrivals = Arrivals(LONGEST)
    for start in range(50):
        arrivals.answered(3, float(start))
        assert arrivals.seen == start
        arrivals.arrived(start + 0.010)
        arrivals.arrived(start + 0.011)
        arrivals.arrived(start + 0.012)
    assert arrivals.gap == pytest.approx(0.001)
    arrivals.answered(3, 50.0)
    assert arrivals.gap == pytest.approx(0.010)
    assert arrivals.burst == pytest.approx(0.012)
    arrivals.arrived(50.010)
    assert arrivals.burst == pytest.approx(0.002)


def test_who_did_not_come_back_before_the_next_answers_is_not_expected_any_more() -> None:
    arrivals = Arrivals(LONGEST)
    arrivals.answered(8, 1.0)
    arrivals.answered(1, 2.0)
    assert arrivals.expected == 1


def test_a_pause_counts_no_more_than_the_longest_span() -> None:
    arrivals = Arrivals(LONGEST)
    arrivals.answered(1, 0.0)
    arrivals.arrived(3600.0)
    arrivals.answered(1, 3601.0)
    assert arrivals.gap == LONGEST
