"""Stragglers and workers that come and go lose some of their share, and win it back."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.load_balancer.fakes import Waters

from shoal.load_balancer.standing import LEAST, RECOVERY, Pace, Reliability, usual_seconds


def pace(*seconds: float) -> Pace:
    made = Pace()
    for each in seconds:
        made.observe(each)
    return made


def test_each_loss_halves_and_quiet_time_restores() -> None:
    reliability = Reliability()
    assert reliability.at(100.0) == 1.0
    reliability.lost(100.0)
    assert reliability.at(100.0) == 0.5
    reliability.lost(100.0)
    assert reliability.at(100.0) == 0.25
    assert reliability.at(100.0 + RECOVERY / 2) == 0.75
    assert reliability.at(100.0 + RECOVERY) == 1.0


@given(st.lists(st.floats(0, 100), max_size=50))
def test_nobody_loses_all_of_it(pauses: list[float]) -> None:
    reliability, now = Reliability(), 0.0
    for pause in pauses:
        now += pause
        reliability.lost(now)
        assert LEAST <= reliability.at(now) <= 1.0


def test_a_straggler_falls_step_by_step_to_what_its_pace_deserves_and_rises_again() -> None:
    slow = pace()
    values = []
    for _ in range(10):
        for _ in range(5):
            slow.observe(0.4)
        slow.weigh(0.1, 1.0)
        values.append(slow.value)
    assert values[0] == pytest.approx(0.8)
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(0.25)
    for _ in range(round(RECOVERY)):
        for _ in range(20):
            slow.observe(0.1)
        slow.weigh(0.1, 1.0)
    assert slow.value == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("seconds", "usual"), [([0.19] * 9, 0.1), ([9.0] * 4, 0.1), ([9.0] * 9, None), ([9.0] * 9, 0.0)]
)
def test_one_is_no_straggler_within_bounds_for_a_few_answers_or_without_peers(
    seconds: list[float], usual: float | None
) -> None:
    one = pace(*seconds)
    assert not one.weigh(usual, 1.0)
    assert one.value == 1.0


def test_the_usual_pace_is_the_median_of_those_that_answer() -> None:
    assert usual_seconds([pace(*[0.1] * 9), pace(*[0.2] * 9), pace(*[5.0] * 9), pace(77.0)]) == 0.2
    assert usual_seconds([pace(*[0.1] * 9), pace(*[5.0] * 9)]) == 0.1
    assert usual_seconds([pace(*[5.0] * 9), pace()]) is None


def shares(waters: Waters, now: float) -> Counter[str]:
    return Counter(str(waters.choose(now)) for _ in range(2000))


def school(*names: str) -> Waters:
    waters = Waters("round_robin")
    for name in names:
        waters.add(name)
    return waters


def test_a_straggler_gets_fewer_requests_and_as_many_as_the_others_once_it_is_well() -> None:
    waters, now = school("a", "b", "slow"), 100.0
    for _ in range(20):
        for replica in waters.pool:
            for _ in range(9):
                replica.answered(1.0 if replica.worker_id == "slow" else 0.1, now)
        now += 1
        waters.pool.weigh(now)
    found = shares(waters, now)
    assert found["slow"] == pytest.approx(LEAST * found["a"], rel=0.1)
    for _ in range(round(RECOVERY) + 5):
        for replica in waters.pool:
            for _ in range(30):
                replica.answered(0.1, now)
        now += 1
        waters.pool.weigh(now)
    found = shares(waters, now)
    assert found["slow"] == pytest.approx(found["a"], rel=0.05)


def test_one_that_was_lost_gets_half_and_with_time_its_whole_share() -> None:
    waters = school("a", "b", "lost")
    waters.workers["lost"].reliability.lost(100.0)
    waters.pool.unsettled(waters.replicas["lost"])
    found = shares(waters, 100.0)
    assert found["lost"] == pytest.approx(0.5 * found["a"], rel=0.1)
    found = shares(waters, 100.0 + RECOVERY)
    assert found["lost"] == pytest.approx(found["a"], rel=0.05)
