from __future__ import annotations

import pytest

from shoal.worker.generation.step_limit import FLOOR, KNOWN, LOOK, MULTIPLE, OWN_PAUSE, StepLimit, StepWatch

MOST = 120.0


def learned(*steps: tuple[int, float]) -> StepLimit:
    limit = StepLimit(MOST)
    for tokens, seconds in steps:
        limit.observe(tokens, seconds)
    return limit


@pytest.mark.parametrize(
    ("steps", "tokens", "expected"),
    [
        pytest.param([], 64, MOST, id="nothing is known"),
        pytest.param([(64, 0.05)] * (KNOWN - 1), 64, MOST, id="too little is known"),
        pytest.param([(64, 0.05)] * KNOWN, 64, FLOOR, id="steps are short"),
        pytest.param([(64, 0.5)] * KNOWN, 64, 0.5 * MULTIPLE, id="steps are longer"),
        pytest.param([(64, 50.0)] * KNOWN, 64, MOST, id="steps are very long"),
        pytest.param([(64, 0.05)] * KNOWN, 127, FLOOR, id="one that is about as large"),
        pytest.param([(64, 0.05)] * KNOWN, 128, MOST, id="one that is larger than any"),
        pytest.param([(64, 0.05)] * KNOWN, 63, MOST, id="a smaller one, which may have to be compiled too"),
        pytest.param([(64, 3.0), *[(64, 0.05)] * KNOWN], 64, pytest.approx(90, rel=0.05), id="the longest counts"),
        pytest.param([(64, 3.0), *[(64, 0.05)] * 500], 64, FLOOR, id="what was long ago is forgotten"),
    ],
)
def test_how_long_a_step_may_take(steps: list[tuple[int, float]], tokens: int, expected: float) -> None:
    assert learned(*steps).seconds(tokens) == expected


def test_a_limit_that_is_shorter_than_the_floor_holds() -> None:
    limit = StepLimit(0.5)
    assert limit.seconds(1) == 0.5
    for _ in range(KNOWN):
        limit.observe(1, 0.1)
    assert limit.seconds(1) == 0.5


def looks(watch: StepWatch, *times: float, reads: int = 7) -> list[bool]:
    return [watch.look(at, reads) for at in times]


def test_a_step_is_hung_once_its_time_is_over() -> None:
    watch = StepWatch(3 * LOOK, 10.0, 7)
    assert looks(watch, 10 + LOOK, 10 + 2 * LOOK, 10 + 3 * LOOK) == [False, False, True]


def test_the_last_look_comes_when_the_time_is_over() -> None:
    watch = StepWatch(1.5 * LOOK, 0.0, 7)
    assert watch.pause == LOOK
    assert looks(watch, LOOK) == [False]
    assert watch.pause == 0.5 * LOOK
    assert looks(watch, 1.5 * LOOK) == [True]


def test_time_in_which_the_process_did_not_run_does_not_count() -> None:
    watch = StepWatch(2 * LOOK, 0.0, 7)
    assert looks(watch, LOOK, 3600.0, 3600.0 + LOOK) == [False, False, True]


def test_a_look_that_is_a_little_late_counts() -> None:
    watch = StepWatch(2 * LOOK, 0.0, 7)
    assert looks(watch, LOOK + 0.9 * OWN_PAUSE, 2 * LOOK + 0.9 * OWN_PAUSE) == [False, True]


def test_time_in_which_memory_is_read_from_a_disk_does_not_count() -> None:
    watch = StepWatch(2 * LOOK, 0.0, 7)
    assert [watch.look(number * LOOK, 7 + number) for number in range(1, 100)] == [False] * 99
    assert looks(watch, 100 * LOOK, 101 * LOOK, reads=106) == [False, True]
