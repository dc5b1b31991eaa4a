"""Whatever happens to a fleet: every request ends once and right, bounds hold, and nothing is left behind."""

from __future__ import annotations

import pytest
from sim.chaos import Asked, Chaos


@pytest.mark.parametrize("seed", range(8))
def test_what_must_hold_holds_under_random_faults(seed: int) -> None:
    chaos = Chaos(seed)
    chaos.run()
    assert not chaos.broken
    assert sum(asked.end == "finished" for asked in chaos.asked) > 50


@pytest.mark.parametrize(
    ("asked", "wrong"),
    [
        (Asked(3, 60.0, [0, 2, 3], 1, "finished"), "its tokens are"),
        (Asked(3, 60.0, [0, 1, 1], 1, "finished"), "its tokens are"),
        (Asked(3, 60.0, [0, 1], 1, "finished"), "2 tokens of 3"),
        (Asked(3, 60.0, [0, 1, 2], 2, "finished"), "2 ends"),
        (Asked(3, 60.0, [0, 1], 0, ""), "it has no end"),
        (Asked(3, 60.0, [0, 1], 0, "worker_lost"), "it ended with worker_lost"),
        (Asked(3, 0.3, [0, 1], 0, "deadline_exceeded", took=2.0), "it took 2.0 s"),
    ],
)
def test_an_answer_that_is_not_right_is_seen(asked: Asked, wrong: str) -> None:
    assert any(wrong in said for said in Chaos(0).wrong(asked))
