from __future__ import annotations

import pytest

from shoal.batcher.cost import Cost
from shoal.batcher.entry import Entry
from shoal.batcher.policy import Running
from shoal.batcher.runs import EngineTime, Runs


def entry(rows: int) -> Entry:
    return Entry({}, rows, key=None, arrived=0.0, rank=0.0, deadline=None, trace="")


def test_runs_at_once_share_the_time_of_the_engine() -> None:
    time = EngineTime()
    first = time.begin(10.0)
    second = time.begin(12.0)  # the first has had two seconds alone
    assert time.read(14.0) - first == pytest.approx(2.0 + 2.0 / 2)
    assert time.end(16.0) - first == pytest.approx(2.0 + 4.0 / 2)
    assert time.end(17.0) - second == pytest.approx(4.0 / 2 + 1.0)
    third = time.begin(30.0)
    assert time.end(31.0) - third == pytest.approx(1.0)


def test_a_run_has_done_its_share_when_half_of_its_cost_has_passed() -> None:
    runs, cost = Runs(at_once=2), Cost(fixed=1.0, per_row=1.0)
    first = runs.add([entry(2), entry(1)], 10.0)
    runs.engine_time.begin(10.0)
    assert runs.running(cost, 11.0) == Running(3, 12.0)
    runs.add([entry(7)], 12.0)
    runs.engine_time.begin(12.0)
    assert runs.full
    assert runs.running(cost, 14.0) == Running(10, 20.0)  # half of 8 seconds, of which each has half
    runs.engine_time.end(14.0)
    runs.remove(first)
    assert runs.running(cost, 14.0) == Running(7, 17.0)
    assert [one.rows for one in runs.entries] == [7]
