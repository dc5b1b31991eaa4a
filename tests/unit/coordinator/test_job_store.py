"""Which jobs are kept, and in which order they begin."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.config import JobsConfig
from shoal.coordinator.job import NEXT, Job, JobState, Order, Result
from shoal.coordinator.job_queue import JobQueue
from shoal.coordinator.job_store import JobStore
from shoal.errors import NotFound, Overloaded
from shoal.types import RequestId


def job(name: str, *, body: int = 0, key: str = "", tenant: str = "") -> Job:
    return Job(RequestId(name), Order("/v1/completions", b"x" * body, key=key, tenant=tenant), created=0.0)


def finish(store: JobStore, done: Job, now: float, answer: int = 0) -> None:
    done.outcome = Result(200, b"x" * answer)
    done.enter(JobState.RUNNING)
    done.enter(JobState.SUCCEEDED)
    count(store, done)
    store.finished(done, now)


def count(store: JobStore, grown: Job) -> None:
    if (excess := store.measure(grown)) > 0:
        grown.events.log.trim(excess)
        store.measure(grown)


def kept(store: JobStore, *jobs: Job, now: float = 0.0) -> list[bool]:
    def has(name: str) -> bool:
        try:
            return store.get(name, now) is not None
        except NotFound:
            return False

    return [has(item.id) for item in jobs]


def test_a_finished_job_is_kept_for_its_time_and_no_longer() -> None:
    store = JobStore(JobsConfig(ttl=10))
    done, waits = job("done"), job("waits")
    store.add(done, 0)
    store.add(waits, 0)
    finish(store, done, 5)
    assert store.next_expiry == 15
    assert kept(store, done, waits, now=14.9) == [True, True]
    assert kept(store, done, waits, now=15) == [False, True]
    assert kept(store, waits, now=1e9) == [True]
    assert store.next_expiry is None


def test_the_first_to_finish_makes_room_and_the_unfinished_stay() -> None:
    store = JobStore(JobsConfig(max_jobs=3))
    one, two, three, four = (job(name) for name in "abcd")
    for item in (one, two, three):
        store.add(item, 0)
    finish(store, two, 1)
    finish(store, one, 2)
    store.add(four, 3)
    assert kept(store, one, two, three, four) == [True, False, True, True]


def of_tenants(store: JobStore, *tenants: str, answer: int = 0) -> list[Job]:
    """Finished jobs, the first the oldest."""
    made = []
    for number, tenant in enumerate(tenants):
        made.append(job(f"{len(store)}-{number}-{tenant}", tenant=tenant))
        store.add(made[-1], 0)
        finish(store, made[-1], 0, answer=answer)
    return made


def test_who_has_most_makes_room_and_pushes_out_nobody_else() -> None:
    store = JobStore(JobsConfig(max_jobs=6))
    small = of_tenants(store, "small", "small")
    large = of_tenants(store, *["large"] * 10)
    assert kept(store, *small) == [True, True]
    assert kept(store, *large) == [False] * 6 + [True] * 4
    grown = of_tenants(store, "small")
    assert kept(store, *small, *grown, *large[-3:]) == [True] * 6


def test_of_bytes_too_who_has_most_makes_room() -> None:
    store = JobStore(JobsConfig(max_bytes=4000))
    small = of_tenants(store, "small", answer=500)
    large = of_tenants(store, *["large"] * 8, answer=800)
    assert kept(store, *small, large[-1]) == [True, True]
    assert kept(store, large[0]) == [False]


def test_one_alone_may_have_all_of_the_room() -> None:
    store = JobStore(JobsConfig(max_jobs=6))
    assert kept(store, *of_tenants(store, *["alone"] * 6)) == [True] * 6


def test_where_nothing_is_finished_the_next_is_refused() -> None:
    store = JobStore(JobsConfig(max_jobs=1))
    store.add(job("a"), 0)
    with pytest.raises(Overloaded, match="at most 1 jobs") as caught:
        store.add(job("b"), 0)
    assert caught.value.retry_after
    assert len(store) == 1


def test_bodies_and_answers_count() -> None:
    store = JobStore(JobsConfig(max_bytes=2000))
    big, small = job("big", body=1500), job("small", body=100)
    store.add(big, 0)
    with pytest.raises(Overloaded, match="2000 bytes"):
        store.add(job("other", body=600), 0)
    finish(store, big, 1, answer=800)
    store.add(small, 2)
    assert kept(store, big, small) == [True, True], "a body is let go when its job is finished"
    assert store.measure(small) <= 0
    small.outcome = Result(200, b"x" * 1500)
    assert store.measure(small) <= 0
    assert kept(store, big, small) == [False, True]
    small.outcome = Result(200, b"x" * 2000)
    assert store.measure(small) > 0


def test_a_request_that_can_never_fit_drops_nobody() -> None:
    store = JobStore(JobsConfig(max_bytes=2000))
    done = job("done")
    store.add(done, 0)
    finish(store, done, 0, answer=500)
    with pytest.raises(Overloaded):
        store.add(job("huge", body=3000), 0)
    assert kept(store, done) == [True]


def test_a_key_leads_to_its_job_while_that_is_kept() -> None:
    store = JobStore(JobsConfig(ttl=10))
    first = job("a", key="k")
    store.add(first, 0)
    assert store.with_key("k", first.digest, 0) is first
    assert store.with_key("other", first.digest, 0) is None
    finish(store, first, 0)
    assert store.with_key("k", first.digest, 9) is first
    assert store.with_key("k", first.digest, 10) is None


@given(
    st.lists(st.tuples(st.sampled_from(["add", "grow", "finish", "forget", "wait"]), st.integers(0, 900)), max_size=40)
)
def test_the_bounds_hold_and_no_unfinished_job_is_lost(steps: list[tuple[str, int]]) -> None:
    config = JobsConfig(ttl=100, max_jobs=4, max_bytes=2000)
    store, now = JobStore(config), 0.0
    unfinished: list[Job] = []
    finished: list[Job] = []
    for number, (step, size) in enumerate(steps):
        match step:
            case "add":
                made = job(str(number), body=size, tenant="ab"[number % 2])
                try:
                    store.add(made, now)
                    unfinished.append(made)
                except Overloaded:
                    pass
            case "grow" if unfinished:
                grown = unfinished[size % len(unfinished)]
                grown.events.append(b"x" * size)
                count(store, grown)
            case "finish" if unfinished:
                finish(store, unfinished[0], now)
                finished.append(unfinished.pop(0))
            case "forget" if finished:
                store.forget(finished.pop())
            case "wait":
                now += size
                store.expire(now)
        assert all(kept(store, *unfinished, now=now))
        assert len(store) <= 4
        assert store.bytes_used <= 2000
        here = [item for item in (*unfinished, *finished) if kept(store, item, now=now)[0]]
        assert store.bytes_used == sum(item.size for item in here)


# -- states


@pytest.mark.parametrize("state", JobState)
def test_a_job_changes_only_to_what_may_follow(state: JobState) -> None:
    for following in JobState:
        item = job("a")
        item.state = state
        if following in NEXT[state]:
            item.enter(following)
            assert item.events.log.closed == (not NEXT[following])
        else:
            with pytest.raises(AssertionError):
                item.enter(following)


# -- the queue


def test_the_most_urgent_begins_first_and_equals_in_their_order() -> None:
    queue = JobQueue[str]()
    for name, priority in [("a", 0), ("b", 5), ("c", 0), ("d", 5), ("e", -1)]:
        queue.put(name, priority, name)
    assert queue.remove("c", 0) == "c"
    assert queue.remove("c", 0) is None
    assert [queue.take() for _ in range(5)] == ["b", "d", "a", "e", None]
