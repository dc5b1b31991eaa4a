from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.batcher.policy import BatchLimits, Flush, Release, WaitUntil, decide

LIMITS = BatchLimits(max_rows=8, max_wait=0.5)


@dataclass(frozen=True, slots=True)
class Queued:
    rows: int
    arrived: float
    key: str = "a"


def test_an_empty_queue_asks_for_nothing() -> None:
    assert decide([], 0.0, LIMITS) is None


def test_a_lone_entry_waits_for_company_until_its_time_is_up() -> None:
    queue = [Queued(1, arrived=10.0)]
    assert decide(queue, 10.0, LIMITS) == WaitUntil(10.5)
    assert decide(queue, 10.4, LIMITS) == WaitUntil(10.5)
    assert decide(queue, 10.5, LIMITS) == Flush(queue, Release.TIMEOUT)


def test_a_full_batch_goes_at_once() -> None:
    queue = [Queued(4, 0.0), Queued(4, 0.0), Queued(1, 0.0)]
    assert decide(queue, 0.0, LIMITS) == Flush(queue[:2], Release.FULL)


def test_a_batch_is_full_when_the_next_entry_does_not_fit_and_none_overtakes_it() -> None:
    queue = [Queued(5, 0.0), Queued(4, 0.0), Queued(1, 0.0)]
    assert decide(queue, 0.0, LIMITS) == Flush(queue[:1], Release.FULL)


def test_entries_of_different_shapes_never_run_together() -> None:
    queue = [Queued(1, 0.0, "a"), Queued(1, 0.0, "b"), Queued(1, 0.1, "a")]
    assert decide(queue, 0.5, LIMITS) == Flush([queue[0], queue[2]], Release.TIMEOUT)


def test_a_full_batch_does_not_wait_behind_one_that_gathers() -> None:
    queue = [Queued(1, 0.0, "a"), Queued(8, 0.1, "b")]
    assert decide(queue, 0.2, LIMITS) == Flush([queue[1]], Release.FULL)


def test_of_two_ready_batches_the_older_goes_first() -> None:
    queue = [Queued(1, 0.0, "a"), Queued(8, 0.1, "b")]
    assert decide(queue, 0.6, LIMITS) == Flush([queue[0]], Release.TIMEOUT)


@settings(deadline=None)  # the machine may be busy
@given(
    st.lists(
        st.tuples(st.integers(1, 8), st.floats(0, 1), st.sampled_from("abc")),
        max_size=30,
    ),
    st.floats(1, 3),
)
def test_every_queue_drains_in_order_within_its_limits(described: list[tuple[int, float, str]], start: float) -> None:
    queue = [Queued(rows, arrived, key) for rows, arrived, key in sorted(described, key=lambda entry: entry[1])]
    now, left = start, list(enumerate(queue))
    flushed: list[tuple[int, Queued]] = []
    while (decision := decide([entry for _, entry in left], now, LIMITS)) is not None:
        if isinstance(decision, WaitUntil):
            assert decision.time > now
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
