from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.batcher.cost import Cost
from shoal.batcher.policy import (
    FRESH,
    MAX_PRIORITY,
    PATIENCE,
    PROMOTION,
    BatchLimits,
    Flush,
    Outlook,
    Release,
    Running,
    RunSize,
    WaitUntil,
    decide,
    decide_beside,
    is_too_late,
    rank,
    rows_allowed,
    run_size,
)

LIMITS = BatchLimits(max_rows=8, max_wait=0.5)
COST = Cost(fixed=2.0, per_row=0.1)  # seconds


@dataclass(frozen=True, slots=True)
class Queued:
    rows: int
    arrived: float
    key: str = "a"
    deadline: float | None = None


def awaited(clients: int = 1, *, gap: float = 0.01, seen: float = 10.0, free_since: float = 10.0) -> Outlook:
    """Clients are expected, one each ``gap`` seconds."""
    return Outlook(COST, free_since, seen, gap, gap * clients if clients else math.inf)


def test_an_empty_queue_asks_for_nothing() -> None:
    assert decide([], 0.0, LIMITS) is None


def test_when_nobody_is_expected_nobody_waits() -> None:
    queue = [Queued(1, arrived=10.0)]
    assert decide(queue, 10.0, LIMITS) == Flush(queue, Release.IDLE)
    assert decide(queue, 10.0, LIMITS, awaited(clients=0)) == Flush(queue, Release.IDLE)


def test_who_is_expected_is_waited_for_as_long_as_he_usually_needs() -> None:
    queue = [Queued(1, arrived=9.0)]
    until = 10.0 + PATIENCE * 0.01
    assert decide(queue, 10.0, LIMITS, awaited()) == WaitUntil(until)
    assert decide(queue, until, LIMITS, awaited()) == Flush(queue, Release.IDLE)


def test_no_wait_is_longer_than_the_limit_counted_from_where_the_model_was_free() -> None:
    queue = [Queued(1, arrived=9.0)]
    patient = awaited(gap=0.4)
    assert decide(queue, 10.0, LIMITS, patient) == WaitUntil(10.5)
    assert decide(queue, 10.5, LIMITS, patient) == Flush(queue, Release.TIMEOUT)
    assert decide([Queued(1, arrived=10.2)], 10.5, LIMITS, patient) == WaitUntil(10.7)


@pytest.mark.parametrize(
    ("outlook", "waits"),
    [
        (awaited(clients=9, gap=0.1), True),  # all are there within half of the fixed cost
        (awaited(clients=11, gap=0.1), False),
        (Outlook(Cost(0.0, 5.0), 10.0, 10.0, 0.01, 0.01), False),  # company saves nothing
        (Outlook(None, 10.0, 10.0, 0.01, 0.01), False),  # it is not known whether it does
        (awaited(gap=math.inf), False),
    ],
)
def test_company_is_waited_for_only_where_it_saves_more_than_it_costs(outlook: Outlook, waits: bool) -> None:
    assert isinstance(decide([Queued(1, 10.0)], 10.0, LIMITS, outlook), WaitUntil) is waits


def test_a_wait_is_never_longer_than_what_company_could_save() -> None:
    outlook = Outlook(Cost(0.1, 0.0), 10.0, 10.0, 0.04, 0.04)
    assert decide([Queued(1, 10.0)], 10.0, LIMITS, outlook) == WaitUntil(10.1)


def test_a_full_batch_goes_at_once() -> None:
    queue = [Queued(4, 0.0), Queued(4, 0.0), Queued(1, 0.0)]
    assert decide(queue, 0.0, LIMITS, awaited()) == Flush(queue[:2], Release.FULL)


def test_a_batch_is_full_when_the_next_entry_does_not_fit_and_none_overtakes_it() -> None:
    queue = [Queued(5, 0.0), Queued(4, 0.0), Queued(1, 0.0)]
    assert decide(queue, 0.0, LIMITS, awaited()) == Flush(queue[:1], Release.FULL)


def test_entries_of_different_shapes_never_run_together() -> None:
    queue = [Queued(1, 0.0, "a"), Queued(1, 0.0, "b"), Queued(1, 0.1, "a")]
    assert decide(queue, 0.2, LIMITS) == Flush([queue[0], queue[2]], Release.IDLE)


def test_a_full_batch_does_not_wait_behind_one_that_gathers() -> None:
    queue = [Queued(1, 10.0, "a"), Queued(8, 10.1, "b")]
    assert decide(queue, 10.0, LIMITS, awaited()) == Flush([queue[1]], Release.FULL)


def test_of_two_ready_batches_the_older_goes_first() -> None:
    queue = [Queued(1, 0.0, "a"), Queued(8, 0.1, "b")]
    assert decide(queue, 0.6, LIMITS) == Flush([queue[0]], Release.TIMEOUT)


# -- two runs at once


BY_ROWS = Cost(fixed=0.7, per_row=1.0)  # seconds: of a run of three rows less than a fifth is fixed
TWELVE = BatchLimits(max_rows=12, max_wait=0.5)  # four for each of two runs, and for one that gathers


def two_at_once(cost: Cost | None = BY_ROWS) -> Outlook:
    return Outlook(cost, 10.0, 10.0, runs_at_once=2)


@pytest.mark.parametrize(
    ("outlook", "expected"),
    [
        (two_at_once(), RunSize(4, least_beside=3)),
        (two_at_once(Cost(0.0, 1.0)), RunSize(4, least_beside=1)),
        (two_at_once(Cost(1.1, 1.0)), RunSize(12)),  # of four rows it would be more than a fifth
        (two_at_once(Cost(1.0, 0.0)), RunSize(12)),
        (two_at_once(None), RunSize(12)),  # it is not known whether they pay
        (Outlook(BY_ROWS), RunSize(12)),
    ],
)
def test_two_runs_and_the_next_share_the_rows_of_one_where_little_is_fixed(outlook: Outlook, expected: RunSize) -> None:
    assert run_size(TWELVE, outlook) == expected


def test_the_first_of_two_runs_leaves_rows_to_the_second_and_to_the_next() -> None:
    queue = [Queued(1, 10.0) for _ in range(12)]
    assert decide(queue, 10.0, TWELVE, two_at_once()) == Flush(queue[:4], Release.FULL)
    assert decide_beside(queue[4:], 10.0, Running(4, 10.0), TWELVE, two_at_once()) == Flush(queue[4:8], Release.FULL)


def test_a_second_run_begins_once_little_of_its_cost_is_fixed() -> None:
    queue = [Queued(1, 10.0) for _ in range(3)]
    assert decide_beside(queue[:2], 10.0, Running(4, 10.0), TWELVE, two_at_once()) is None
    assert decide_beside(queue, 10.0, Running(4, 10.0), TWELVE, two_at_once()) == Flush(queue, Release.BESIDE)
    assert decide_beside(queue, 10.0, Running(4, 10.0), TWELVE, two_at_once(Cost(9.0, 1.0))) is None
    assert decide_beside([], 10.0, Running(4, 10.0), TWELVE, two_at_once()) is None


def test_a_second_run_begins_when_the_first_one_is_half_done() -> None:
    """So one of them has work when the other one ends."""
    queue = [Queued(1, 10.0) for _ in range(4)]
    assert decide_beside(queue, 10.0, Running(4, 12.0), TWELVE, two_at_once()) == WaitUntil(12.0)
    assert decide_beside(queue, 12.0, Running(4, 12.0), TWELVE, two_at_once()) == Flush(queue, Release.FULL)


def test_two_runs_have_no_more_rows_than_one_may_have() -> None:
    queue = [Queued(3, 10.0)]
    assert decide_beside(queue, 10.0, Running(9, 10.0), TWELVE, two_at_once()) == Flush(queue, Release.BESIDE)
    assert decide_beside(queue, 10.0, Running(10, 10.0), TWELVE, two_at_once()) is None
    assert decide_beside([Queued(12, 10.0)], 10.0, Running(1, 10.0), TWELVE, two_at_once()) is None


def test_nobody_overtakes_in_a_second_run() -> None:
    """Else, as long as one of two runs, who has too little company might never have a turn."""
    queue = [Queued(1, 9.0, "a"), *(Queued(1, 10.0, "b") for _ in range(4))]
    assert decide_beside(queue, 10.0, Running(4, 10.0), TWELVE, two_at_once()) is None


def test_with_a_target_two_runs_share_the_rows_that_it_allows() -> None:
    limits = BatchLimits(max_rows=32, target_latency=2 * (0.7 + 9 * 1.0))
    queue = [Queued(1, 10.0) for _ in range(6)]
    assert run_size(limits, two_at_once()) == RunSize(3, least_beside=3)
    assert decide(queue, 10.0, limits, two_at_once()) == Flush(queue[:3], Release.ADAPTIVE)
    assert decide_beside(queue[3:], 10.0, Running(3, 10.0), limits, two_at_once()) == Flush(queue[3:], Release.ADAPTIVE)


# -- the latency target


def test_with_a_target_a_run_and_the_one_before_it_fit_into_it() -> None:
    limits = BatchLimits(max_rows=32, max_wait=0.5, target_latency=5.0)
    assert rows_allowed(limits, COST) == 5  # 2 · (2.0 + 5 · 0.1) = 5.0
    queue = [Queued(1, 0.0) for _ in range(20)]
    assert decide(queue, 0.0, limits, Outlook(COST)) == Flush(queue[:5], Release.ADAPTIVE)
    assert decide([Queued(9, 0.0)], 0.0, limits, Outlook(COST)) == Flush([Queued(9, 0.0)], Release.ADAPTIVE)


def test_a_long_queue_does_not_make_the_runs_smaller() -> None:
    limits = BatchLimits(target_latency=5.0)
    late = [Queued(1, 0.0) for _ in range(20)]
    assert decide(late, 100.0, limits, Outlook(COST)) == Flush(late[:5], Release.ADAPTIVE)


def test_with_a_target_nobody_waits_past_the_last_moment() -> None:
    limits = BatchLimits(max_wait=60.0, target_latency=5.0)
    queue = [Queued(1, arrived=10.0)]
    outlook = Outlook(Cost(2.0, 0.1), 10.0, 10.0, 0.9, 0.9)
    assert decide(queue, 10.0, limits, outlook) == WaitUntil(12.0)  # what company can save
    assert decide([Queued(1, 8.0)], 10.0, limits, outlook) == WaitUntil(8.0 + 5.0 - COST.of(1))


@given(st.floats(0, 1), st.floats(0, 0.1), st.floats(0, 2), st.floats(1e-3, 10), st.integers(1, 256))
def test_the_size_is_within_its_limits_and_the_largest_that_fits(
    fixed: float, per_row: float, error: float, target: float, most: int
) -> None:
    cost = Cost(fixed, per_row, error)
    rows = rows_allowed(BatchLimits(max_rows=most, target_latency=target), cost)
    assert 1 <= rows <= most
    budget = target / 2 / (1 + 2 * error)
    if rows > 1:
        assert cost.of(rows) <= budget * (1 + 1e-9)
    if rows < most:
        assert cost.of(rows + 1) > budget * (1 - 1e-9)


# -- priorities and age


def test_a_higher_priority_comes_first_and_arrival_counts_inside_one() -> None:
    assert rank(1, 10.0) < rank(0, 9.9)
    assert rank(0, 9.9) < rank(0, 10.0)
    assert rank(-1, 10.0) > rank(0, 10.5)


@given(st.integers(), st.floats(0, 100), st.integers(), st.floats(0, 100))
def test_nobody_is_overtaken_by_what_comes_much_later(priority: int, arrived: float, other: int, after: float) -> None:
    if after > 2 * MAX_PRIORITY * PROMOTION:
        assert rank(other, arrived + after) > rank(priority, arrived)


@settings(deadline=None, max_examples=50)  # the machine may be busy
@given(st.integers(1, 4), st.floats(0.1, 2.0), st.integers(-20, 20))
def test_under_a_flood_of_urgent_requests_the_least_urgent_one_still_runs(size: int, run: float, priority: int) -> None:
    """As many urgent ones arrive in each run as fit one, and so the queue never runs dry."""
    limits = BatchLimits(max_rows=size)
    ranked = [(rank(priority, 0.0), 0, Queued(1, 0.0))]
    now, number = 0.0, 0
    while any(tag == 0 for _, tag, _ in ranked):
        for _ in range(size):
            number += 1
            ranked.append((rank(99, now), number, Queued(1, now)))
        ranked.sort(key=lambda ranked_entry: ranked_entry[:2])
        flush = decide([entry for _, _, entry in ranked], now, limits)
        assert isinstance(flush, Flush)
        ranked = ranked[len(flush.entries) :]
        now += run
        assert now <= 2 * MAX_PRIORITY * PROMOTION + 2 * run + 1


@settings(deadline=None)  # the machine may be busy
@given(
    st.lists(
        st.tuples(st.integers(1, 8), st.floats(0, 1), st.sampled_from("abc")),
        max_size=30,
    ),
    st.floats(1, 3),
    st.integers(0, 3),
)
def test_every_queue_drains_in_order_within_its_limits(
    described: list[tuple[int, float, str]], start: float, expected: int
) -> None:
    queue = [Queued(rows, arrived, key) for rows, arrived, key in sorted(described, key=lambda entry: entry[1])]
    now, left = start, list(enumerate(queue))
    flushed: list[tuple[int, Queued]] = []
    outlook = awaited(expected, seen=start, free_since=start)
    while (decision := decide([entry for _, entry in left], now, LIMITS, outlook)) is not None:
        if isinstance(decision, WaitUntil):
            assert now < decision.time <= start + LIMITS.max_wait
            now = decision.time
            continue
        assert sum(entry.rows for entry in decision.entries) <= LIMITS.max_rows
        assert len({entry.key for entry in decision.entries}) == 1
        ids = {id(entry) for entry in decision.entries}
        flushed += [pair for pair in left if id(pair[1]) in ids]
        left = [pair for pair in left if id(pair[1]) not in ids]
    assert len(flushed) == len(queue)
    for key in "abc":
        order = [number for number, entry in flushed if entry.key == key]
        assert order == sorted(order)


# -- deadlines


def test_who_would_not_be_answered_in_time_is_too_late() -> None:
    ran = Outlook(COST, free_since=10.0)  # 2.1 s for a row
    assert not is_too_late(Queued(1, 9.0), 10.0, ran)
    assert not is_too_late(Queued(1, 9.0, deadline=12.2), 10.0, ran)
    assert is_too_late(Queued(1, 9.0, deadline=12.0), 10.0, ran)
    assert is_too_late(Queued(5, 9.0, deadline=12.2), 10.0, ran)


def test_a_cost_that_is_not_sure_is_taken_at_its_least() -> None:
    unsure = Outlook(Cost(fixed=2.0, per_row=0.1, error=0.5), free_since=10.0)
    assert not is_too_late(Queued(1, 9.0, deadline=11.1), 10.0, unsure)
    assert is_too_late(Queued(1, 9.0, deadline=11.0), 10.0, unsure)
    assert not is_too_late(Queued(1, 9.0, deadline=10.1), 10.0, Outlook(Cost(2.0, 0.1, error=1.5), free_since=10.0))


def test_a_model_that_was_idle_is_tried_however_slow_it_was() -> None:
    """Else a cost that was once too high would let nobody run who could show that it is."""
    entry = Queued(1, 9.0, deadline=10.5)
    assert is_too_late(entry, 10.0, Outlook(COST, free_since=10.0 - FRESH / 2))
    assert not is_too_late(entry, 10.0, Outlook(COST, free_since=10.0 - FRESH))
    assert is_too_late(entry, 10.5, Outlook())
