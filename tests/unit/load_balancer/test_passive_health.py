from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.load_balancer import Health, HealthLimits, Outcome
from shoal.types import WorkerId

A, B = WorkerId("a"), WorkerId("b")
LIMITS = HealthLimits(failures=3, first_ejection=1.0, longest_ejection=5.0)


def ejected(now: float = 0.0) -> Health:
    health = Health(LIMITS)
    fail(health, LIMITS.failures, now)
    return health


def fail(health: Health, times: int, now: float = 0.0) -> None:
    for _ in range(times):
        health.end(health.begin(A, now), Outcome.FAILURE, now)


def test_a_worker_of_which_nothing_is_known_is_available() -> None:
    assert Health().available(A, 0.0)


def test_failures_in_a_row_eject_the_worker_and_no_other() -> None:
    health = Health(LIMITS)
    fail(health, 2)
    assert health.available(A, 0.0)
    fail(health, 1)
    assert not health.available(A, 0.0)
    assert health.available(B, 0.0)


def test_a_success_in_between_starts_the_count_again() -> None:
    health = Health(LIMITS)
    fail(health, 2)
    health.end(health.begin(A, 0.0), Outcome.SUCCESS, 0.0)
    fail(health, 2)
    assert health.available(A, 0.0)


def test_an_abandoned_request_says_nothing() -> None:
    health = Health(LIMITS)
    fail(health, 2)
    health.end(health.begin(A, 0.0), Outcome.ABANDONED, 0.0)
    assert health.available(A, 0.0)
    fail(health, 1)
    assert not health.available(A, 0.0)


def test_a_lost_connection_ejects_at_once() -> None:
    assert not ejected().available(A, 0.0)


def test_after_its_ejection_one_request_tries_the_worker_and_no_second_one() -> None:
    health = ejected()
    assert not health.available(A, 0.9)
    assert health.available(A, 1.0)
    health.begin(A, 1.0)
    assert not health.available(A, 1.0)
    assert not health.available(A, 100.0)


def test_a_trial_that_succeeds_makes_the_worker_as_good_as_new() -> None:
    health = ejected()
    health.end(health.begin(A, 1.0), Outcome.SUCCESS, 1.5)
    fail(health, 2, now=2.0)
    assert health.available(A, 2.0)


def test_a_trial_that_fails_doubles_the_ejection_up_to_the_longest() -> None:
    health = ejected(now=0.0)
    now = 1.0
    for length in (2.0, 4.0, 5.0, 5.0):
        health.end(health.begin(A, now), Outcome.FAILURE, now)
        assert not health.available(A, now + length - 0.1)
        assert health.available(A, now + length)
        now += length


@pytest.mark.parametrize("outcome", [Outcome.FAILURE, Outcome.ABANDONED])
def test_a_trial_during_which_the_connection_is_lost_doubles_the_ejection_once(outcome: Outcome) -> None:
    health = ejected()
    trial = health.begin(A, 1.0)
    health.connection_lost(A, 1.0)
    health.end(trial, outcome, 1.0)
    assert not health.available(A, 2.9)
    assert health.available(A, 3.0)


def test_a_worker_that_comes_back_after_a_lost_connection_needs_no_trial() -> None:
    health = Health(LIMITS)
    health.connection_lost(A, 0.0)
    assert not health.available(A, 0.9)
    assert health.available(A, 1.0)
    for _ in range(20):
        health.begin(A, 1.0)
    assert health.available(A, 1.0)


def test_connections_lost_one_after_the_other_eject_for_longer_and_long_apart_they_do_not() -> None:
    health = Health(LIMITS)
    for at, until in ((0.0, 1.0), (2.0, 4.0), (5.0, 9.0), (100.0, 101.0)):
        health.connection_lost(A, at)
        assert not health.available(A, until - 0.1)
        assert health.available(A, until)


def test_an_abandoned_trial_lets_another_request_try() -> None:
    health = ejected()
    health.end(health.begin(A, 1.0), Outcome.ABANDONED, 1.5)
    assert health.available(A, 1.5)


def test_many_requests_on_one_lost_connection_eject_once() -> None:
    health = Health(LIMITS)
    attempts = [health.begin(A, 0.0) for _ in range(50)]
    health.connection_lost(A, 0.0)
    for attempt in attempts:
        health.end(attempt, Outcome.FAILURE, 0.0)
    assert health.available(A, 1.0)


def test_how_a_request_from_before_the_ejection_ends_neither_admits_the_worker_nor_ends_a_trial() -> None:
    health = Health(LIMITS)
    early = [health.begin(A, 0.0) for _ in range(3)]
    fail(health, LIMITS.failures)
    health.end(early[0], Outcome.SUCCESS, 0.1)
    assert not health.available(A, 0.1)
    health.begin(A, 1.0)
    health.end(early[1], Outcome.ABANDONED, 1.1)
    health.end(early[2], Outcome.FAILURE, 1.1)
    assert not health.available(A, 1.1)


def test_a_trial_may_succeed_with_its_first_part_and_be_ended_again() -> None:
    health = ejected()
    trial = health.begin(A, 1.0)
    health.end(trial, Outcome.SUCCESS, 1.1)
    health.end(trial, Outcome.ABANDONED, 1.2)
    assert health.available(A, 1.2)
    assert len(health) == 0


def test_a_worker_that_is_forgotten_starts_anew() -> None:
    health = ejected()
    health.forget(A)
    assert health.available(A, 0.0)


def test_what_is_remembered_is_bounded_and_a_thousand_ejections_are_no_overflow() -> None:
    health = Health(LIMITS)
    for index in range(10_000):
        health.connection_lost(WorkerId(f"worker-{index}"), 0.0)
    assert len(health) == health._REMEMBERED
    assert LIMITS.ejection(10_000) == 5.0


@given(st.lists(st.sampled_from(["begin", *Outcome, "lost", "later"]), max_size=60))
def test_whatever_happens_there_is_one_trial_at_most_and_the_worker_is_tried_again(steps: list[str]) -> None:
    health, now, out = Health(LIMITS), 0.0, []
    for step in steps:
        if step == "later":
            now += 0.7
        elif step == "lost":
            health.connection_lost(A, now)
        elif step == "begin":
            if health.available(A, now):
                out.append(health.begin(A, now))
        elif out:
            health.end(out.pop(0), Outcome(step), now)
    for attempt in out:
        health.end(attempt, Outcome.ABANDONED, now)
    assert health.available(A, now + LIMITS.longest_ejection)
