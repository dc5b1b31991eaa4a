"""Whatever happens to a fleet: every request ends once and right, bounds hold, and nothing is left behind."""

from __future__ import annotations

import pytest
from sim.asking import Asked
from sim.chaos import Chaos
from sim.verdict import overtaken, starved, wrong


@pytest.mark.parametrize("seed", range(8))
def test_what_must_hold_holds_under_random_faults(seed: int) -> None:
    chaos = Chaos(seed)
    chaos.run()
    assert not chaos.broken
    assert chaos.stops or sum(asked.end == "finished" for asked in chaos.asked) > 30


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        (Asked(3, 60.0, [0, 2, 3], 1, "finished"), "its tokens are"),
        (Asked(3, 60.0, [0, 1, 1], 1, "finished"), "its tokens are"),
        (Asked(3, 60.0, [0, 1], 1, "finished"), "2 tokens of 3"),
        (Asked(3, 60.0, [0, 1, 2], 2, "finished"), "2 ends"),
        (Asked(3, 60.0, [0, 1], 0, ""), "it has no end"),
        (Asked(3, 60.0, [0, 1], 0, "worker_lost"), "it ended with worker_lost"),
        (Asked(3, 0.3, [0, 1], 0, "deadline_exceeded", took=2.0), "it took 2.0 s"),
        (Asked(3, 60.0, [0, 1, 2], 1, "worker_lost"), "it was whole"),
        (Asked(3, 60.0, [0], 0, "overloaded"), "it ended with overloaded"),
        (Asked(3, 60.0, [], 0, "overloaded", took=1.0), "it ended with overloaded"),
        (Asked(3, 60.0, [], 0, "left"), "it ended with left"),
    ],
)
def test_an_answer_that_is_not_right_is_seen(asked: Asked, what: str) -> None:
    assert any(what in said for said in wrong(asked))


def test_who_is_overtaken_for_too_long_is_seen() -> None:
    early, late = Asked(3, 60.0, began=0.0, turn=20.0), Asked(3, 60.0, [0], began=11.0, priority=1)
    assert list(overtaken([early, late]))
    late.turn = 21.0
    assert not list(overtaken([early, late]))
    late.began, late.turn = 9.0, None
    assert not list(overtaken([early, late]))
    late.began, late.tenant = 11.0, "another"
    assert not list(overtaken([early, late]))


def test_a_tenant_that_seldom_asks_and_waits_for_long_is_seen() -> None:
    assert list(starved([Asked(3, 60.0, tenant="seldom", turn=11.0)]))
    assert list(starved([Asked(3, 60.0, tenant="seldom", end="deadline_exceeded", took=60.0)]))
    assert not list(starved([Asked(3, 60.0, tenant="seldom", turn=1.0, took=50.0), Asked(3, 60.0, turn=50.0)]))
