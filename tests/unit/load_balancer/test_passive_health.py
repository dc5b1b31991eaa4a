from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.load_balancer import Health, HealthLimits, Outcome
from shoal.types import FIRST_VERSION, ModelId, ModelName, ModelPart, WorkerId

A, B = WorkerId("a"), WorkerId("b")
FISH, WHALE = (ModelPart(ModelId(ModelName(name), FIRST_VERSION)) for name in ("fish", "whale"))
LIMITS = HealthLimits(failures=3, first_ejection=1.0, longest_ejection=5.0)


def ejected(now: float = 0.0) -> Health:
    health = Health(LIMITS)
    fail(health, LIMITS.failures, now)
    return health


def fail(health: Health, times: int, now: float = 0.0) -> None:
    for _ in range(times):
        health.end(health.begin(A, FISH, now), Outcome.FAILURE, now)


def test_a_worker_of_which_nothing_is_known_is_available() -> None:
    assert Health().available(A, FISH, 0.0)


def test_failures_in_a_row_eject_the_worker_and_no_other() -> None:
    health = Health(LIMITS)
    fail(health, 2)
    assert health.available(A, FISH, 0.0)
    fail(health, 1)
    assert not health.available(A, FISH, 0.0)
    assert health.available(B, FISH, 0.0)


def test_a_success_in_between_starts_the_count_again() -> None:
    health = Health(LIMITS)
    fail(health, 2)
    health.end(health.begin(A, FISH, 0.0), Outcome.SUCCESS, 0.0)
    fail(health, 2)
    assert health.available(A, FISH, 0.0)


def test_an_abandoned_request_says_nothing() -> None:
    health = Health(LIMITS)
    fail(health, 2)
    health.end(health.begin(A, FISH, 0.0), Outcome.ABANDONED, 0.0)
    assert health.available(A, FISH, 0.0)
    fail(health, 1)
    assert not health.available(A, FISH, 0.0)


def test_a_lost_connection_ejects_at_once() -> None:
    assert not ejected().available(A, FISH, 0.0)


def test_after_its_ejection_one_request_tries_the_worker_and_no_second_one() -> None:
    health = ejected()
    assert not health.available(A, FISH, 0.9)
    assert health.available(A, FISH, 1.0)
    health.begin(A, FISH, 1.0)
    assert not health.available(A, FISH, 1.0)
    assert not health.available(A, FISH, 100.0)


def test_a_trial_that_succeeds_makes_the_worker_as_good_as_new() -> None:
    health = ejected()
    health.end(health.begin(A, FISH, 1.0), Outcome.SUCCESS, 1.5)
    fail(health, 2, now=2.0)
    assert health.available(A, FISH, 2.0)


def test_a_trial_that_fails_doubles_the_ejection_up_to_the_longest() -> None:
    health = ejected(now=0.0)
    now = 1.0
    for length in (2.0, 4.0, 5.0, 5.0):
        health.end(health.begin(A, FISH, now), Outcome.FAILURE, now)
        assert not health.available(A, FISH, now + length - 0.1)
        assert health.available(A, FISH, now + length)
        now += length


@pytest.mark.parametrize("outcome", [Outcome.FAILURE, Outcome.ABANDONED])
def test_a_trial_during_which_the_connection_is_lost_says_nothing_of_the_model(outcome: Outcome) -> None:
    health = ejected()
    trial = health.begin(A, FISH, 1.0)
    health.connection_lost(A, 1.0)
    health.end(trial, outcome, 1.0)
    assert not health.available(A, FISH, 1.9)
    assert health.available(A, FISH, 2.0)


def test_a_worker_that_comes_back_after_a_lost_connection_needs_no_trial() -> None:
    health = Health(LIMITS)
    health.connection_lost(A, 0.0)
    assert not health.available(A, FISH, 0.9)
    assert health.available(A, FISH, 1.0)
    for _ in range(20):
        health.begin(A, FISH, 1.0)
    assert health.available(A, FISH, 1.0)


def test_connections_lost_one_after_the_other_eject_for_longer_and_long_apart_they_do_not() -> None:
    health = Health(LIMITS)
    for at, until in ((0.0, 1.0), (2.0, 4.0), (5.0, 9.0), (100.0, 101.0)):
        health.connection_lost(A, at)
        assert not health.available(A, FISH, until - 0.1)
        assert health.available(A, FISH, until)


def test_an_abandoned_trial_lets_another_request_try() -> None:
    health = ejected()
    health.end(health.begin(A, FISH, 1.0), Outcome.ABANDONED, 1.5)
    assert health.available(A, FISH, 1.5)


def test_many_requests_on_one_lost_connection_eject_once() -> None:
    health = Health(LIMITS)
    attempts = [health.begin(A, FISH, 0.0) for _ in range(50)]
    health.connection_lost(A, 0.0)
    for attempt in attempts:
        health.end(attempt, Outcome.FAILURE, 0.0)
    assert health.available(A, FISH, 1.0)


def test_how_a_request_from_before_the_ejection_ends_neither_admits_the_worker_nor_ends_a_trial() -> None:
    health = Health(LIMITS)
    early = [health.begin(A, FISH, 0.0) for _ in range(3)]
    fail(health, LIMITS.failures)
    health.end(early[0], Outcome.SUCCESS, 0.1)
    assert not health.available(A, FISH, 0.1)
    health.begin(A, FISH, 1.0)
    health.end(early[1], Outcome.ABANDONED, 1.1)
    health.end(early[2], Outcome.FAILURE, 1.1)
    assert not health.available(A, FISH, 1.1)


def test_a_trial_may_succeed_with_its_first_part_and_be_ended_again() -> None:
    health = ejected()
    trial = health.begin(A, FISH, 1.0)
    health.end(trial, Outcome.SUCCESS, 1.1)
    health.end(trial, Outcome.ABANDONED, 1.2)
    assert health.available(A, FISH, 1.2)
    assert len(health) == 0


def test_a_model_that_fails_leaves_its_worker_to_the_others() -> None:
    health = ejected()
    assert not health.available(A, FISH, 0.0)
    assert health.available(A, WHALE, 0.0)
    health.end(health.begin(A, WHALE, 0.0), Outcome.SUCCESS, 0.1)
    assert not health.available(A, FISH, 0.1)


def test_a_lost_connection_is_one_for_every_model_until_an_answer_comes() -> None:
    health = Health(LIMITS)
    health.connection_lost(A, 0.0)
    assert not health.available(A, WHALE, 0.0)
    health.end(health.begin(A, WHALE, 1.0), Outcome.SUCCESS, 1.1)
    health.connection_lost(A, 2.0)
    assert health.available(A, FISH, 3.0)


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
            if health.available(A, FISH, now):
                out.append(health.begin(A, FISH, now))
        elif out:
            health.end(out.pop(0), Outcome(step), now)
    for attempt in out:
        health.end(attempt, Outcome.ABANDONED, now)
    assert health.available(A, FISH, now + LIMITS.longest_ejection)
