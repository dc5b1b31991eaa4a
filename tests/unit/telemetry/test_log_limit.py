from __future__ import annotations

import logging

from shoal.telemetry.log_limit import BURST, MAX_KEYS, PER_SECOND, LogLimit


def record(at: float, *, action: str = "notice_refused", name: str = "shoal.rpc") -> logging.LogRecord:
    made = logging.makeLogRecord({"name": name, "msg": "a line", "action": action})
    made.created = at
    return made


def test_a_flood_of_one_action_is_cut_and_the_next_line_counts_what_was_left_out() -> None:
    limit = LogLimit()
    assert sum(limit.filter(record(100.0)) for _ in range(10_000)) == BURST
    later = record(101.0)
    assert limit.filter(later)
    assert vars(later)["left_out"] == 10_000 - BURST
    quiet = record(101.0)
    assert limit.filter(quiet)
    assert "left_out" not in vars(quiet)


def test_a_flood_that_lasts_is_held_to_a_rate() -> None:
    limit = LogLimit()
    passed = sum(limit.filter(record(second + part / 1000)) for second in range(20) for part in range(1000))
    assert abs(passed - (BURST + 20 * PER_SECOND)) <= 2


def test_other_actions_and_loggers_are_not_held_back() -> None:
    limit = LogLimit()
    assert not all(limit.filter(record(1.0)) for _ in range(BURST + 1))
    assert limit.filter(record(1.0, action="worker_lost"))
    assert limit.filter(record(1.0, name="uvicorn.error"))


def test_a_clock_that_is_set_back_changes_nothing_but_the_pace() -> None:
    limit = LogLimit()
    assert sum(limit.filter(record(at)) for at in (1000.0, *[1.0] * BURST)) == BURST
    assert limit.filter(record(2.0))


def test_the_actions_that_are_remembered_are_bounded() -> None:
    limit = LogLimit()
    for number in range(MAX_KEYS + 10):
        limit.filter(record(1.0, action=str(number)))
    assert len(limit._buckets) == MAX_KEYS
