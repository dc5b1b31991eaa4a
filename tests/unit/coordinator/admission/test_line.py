"""What is expected of a model's runs, and who is refused for it."""

from __future__ import annotations

import pytest

from shoal.coordinator.admission.fair_queue import Waiting
from shoal.coordinator.admission.line import Line, Span
from shoal.types import Usage


class Numbered:
    def __init__(self) -> None:
        self.line = Line("fish", lambda tenant: 1.0)
        self._number = 0

    def waiting(self, *, within: float, cost: int = 1, tenant: str = "a") -> Waiting:
        self._number += 1
        return Waiting(tenant, cost=cost, deadline=within, arrived=0.0, number=self._number)

    def refuses(self, *, within: float, cost: int = 1, free: int = 100) -> bool:
        return self.line.refusal(self.waiting(within=within, cost=cost), free, 0.0) is not None


@pytest.fixture
def numbered() -> Numbered:
    return Numbered()


def test_a_span_follows_what_it_sees_up_and_down() -> None:
    span = Span()
    for seconds in (5.0, 0.05):
        for _ in range(60):
            span.observe(seconds)
        assert span.usual == pytest.approx(seconds, rel=0.1)
        assert span.deviation < 0.1


def test_before_a_run_has_ended_nobody_is_refused_for_its_deadline(numbered: Numbered) -> None:
    assert not numbered.refuses(within=0.001)
    assert not numbered.line.is_hopeless(numbered.waiting(within=0.001), 0.0)
    assert numbered.line.is_hopeless(numbered.waiting(within=0.001), 0.002)


def test_who_has_less_time_than_a_run_takes_is_refused(numbered: Numbered) -> None:
    for _ in range(50):
        numbered.line.ran(1, 2.0, whole=True)
    assert numbered.refuses(within=1.9)
    assert not numbered.refuses(within=2.1)
    assert numbered.line.is_hopeless(numbered.waiting(within=1.9), 0.0)


def test_a_short_request_is_not_judged_by_long_ones(numbered: Numbered) -> None:
    for _ in range(50):
        numbered.line.ran(2000, 30.0, whole=True)
        numbered.line.ran(20, 0.5, whole=True)
    assert not numbered.refuses(within=1.0, cost=25)
    assert numbered.refuses(within=1.0, cost=1500)


def test_a_run_that_broke_off_counts_only_when_it_was_long(numbered: Numbered) -> None:
    for _ in range(50):
        numbered.line.ran(1, 2.0, whole=True)
    for _ in range(50):
        numbered.line.ran(1, 0.1, whole=False)
    assert numbered.refuses(within=1.9)
    for _ in range(50):
        numbered.line.ran(1, 4.0, whole=False)
    assert numbered.refuses(within=3.9)


def test_runs_are_timed_for_a_while_after_somebody_had_to_wait(numbered: Numbered) -> None:
    line, watched = numbered.line, list[bool]()
    watched.append(line.is_watched)
    line.refusal(numbered.waiting(within=9.0), 100, 50.0)
    for at in (59.0, 61.0):
        line.look(at)
        watched.append(line.is_watched)
    assert watched == [False, True, False]


def test_answers_tell_how_long_they_usually_are(numbered: Numbered) -> None:
    before = numbered.line.usual_answer.tokens
    numbered.line.used(numbered.waiting(within=9.0, cost=100), Usage(5, 10))
    assert numbered.line.usual_answer.tokens < before
