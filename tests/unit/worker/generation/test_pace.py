from __future__ import annotations

import pytest

from shoal.worker.generation.pace import BEGINNING, FALL, Pace


def test_as_long_as_nothing_is_known_nothing_is_too_long() -> None:
    pace = Pace(least=100)
    pace.observe(99, 10.0)
    pace.observe(100, 0.0)
    assert pace.seconds(10**6) == 0.0


def test_the_rate_is_that_of_steps_that_are_full_of_prompts() -> None:
    pace = Pace(least=100)
    for _ in range(BEGINNING):
        assert pace.seconds(1000) == 0.0
        pace.observe(200, 0.1)
        pace.observe(20, 0.1)
    assert pace.seconds(1000) == pytest.approx(0.5)


def test_it_rises_at_once_and_falls_slowly() -> None:
    pace = Pace(least=100)
    for seconds in (1.0, 1.0, 0.1):
        pace.observe(100, seconds)
    assert pace.seconds(1000) == pytest.approx(1.0)
    pace.observe(100, 100.0)
    assert pace.seconds(1000) == pytest.approx(1 / (1 - FALL), rel=0.01)
    for _ in range(200):
        pace.observe(100, 1.0)
    assert pace.seconds(1000) == pytest.approx(10, rel=0.01)
