"""What each policy chooses, and what holds for all of them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.load_balancer.fakes import FISH, FakeWorker, Waters, grown

from shoal.load_balancer import POLICIES, Policy, Replica
from shoal.types import WorkerId


def make(name: str, *replicas: Replica, seed: int = 0) -> Policy:
    policy = POLICIES[name](random.Random(seed))
    for replica in replicas:
        policy.put(replica)
    return policy


def worker(name: str, in_flight: int = 0, *, capacity: int = 10, weight: float = 1.0) -> Replica:
    return grown(FakeWorker(WorkerId(name), capacity, in_flight, weight))


def times(policy: Policy, count: int, now: float = 0.0) -> Counter[str]:
    chosen = [policy.choose(now) for _ in range(count)]
    return Counter(replica.worker_id for replica in chosen if replica)


@pytest.mark.parametrize(
    ("replicas", "expected"),
    [
        pytest.param([], None, id="there is none"),
        pytest.param([worker("a", 3), worker("b", 2)], "b", id="the one with fewer requests"),
        pytest.param([worker("a", 3), worker("b", 4, capacity=100)], "b", id="the one with more room for its size"),
        pytest.param([worker("a", 3), worker("b", 4, weight=2.0)], "b", id="the one that weighs more"),
    ],
)
def test_least_connections_chooses(replicas: list[Replica], expected: str | None) -> None:
    chosen = make("least_connections", *replicas).choose(0.0)
    assert (chosen.worker_id if chosen else None) == expected


def test_least_connections_sends_nobody_where_he_would_only_wait() -> None:
    large, small = worker("large", 8, weight=4.0, capacity=20), worker("small", 4, capacity=20)
    for replica in (large, small):
        replica.info = msgspec.structs.replace(replica.info, at_once=8)
    assert times(make("least_connections", large, small), 2) == {"small": 2}


def test_least_connections_follows_the_load_as_it_changes() -> None:
    waters = Waters()
    waters.add("a", in_flight=3)
    waters.add("b", in_flight=5)
    assert waters.choose() == "a"
    waters.change("a", in_flight=6)
    assert waters.choose() == "b"
    waters.change("a", in_flight=1)
    assert waters.choose() == "a"


def test_least_connections_hears_of_a_load_alone_before_the_next_choice_and_of_nobody_who_is_out() -> None:
    waters = Waters(zone="here")
    for name, in_flight in (("a", 3), ("b", 5), ("c", 9)):
        waters.add(name, zone="here", in_flight=in_flight)
    assert waters.choose() == "a"
    for name, in_flight in (("a", 6), ("c", 1), ("b", 4)):
        waters.workers[name].in_flight = in_flight
        waters.pool.loaded(waters.replicas[name])
    waters.pool.remove(waters.replicas["c"])
    assert [waters.choose(), waters.choose(excluded="b")] == ["b", "a"]


@pytest.mark.parametrize("name", ["least_connections", "round_robin", "weighted_round_robin"])
def test_equals_take_turns(name: str) -> None:
    policy = make(name, *(worker(letter) for letter in "abc"))
    chosen = [policy.choose(0.0) for _ in range(6)]
    assert [replica.worker_id for replica in chosen if replica] == list("abcabc")


def test_round_robin_looks_at_no_size_and_the_weighted_one_at_nothing_else() -> None:
    replicas = [worker("a", 9, weight=5.0), worker("b", weight=1.0), worker("c", weight=1.0)]
    assert times(make("round_robin", *replicas), 21) == {"a": 7, "b": 7, "c": 7}
    for replica in replicas:
        replica.turn = 0.0
    assert times(make("weighted_round_robin", *replicas), 21) == {"a": 15, "b": 3, "c": 3}


def smooth_as_nginx(weights: dict[str, int], count: int) -> list[str]:
    current = dict.fromkeys(weights, 0)
    chosen = []
    for _ in range(count):
        for name, weight in weights.items():
            current[name] += weight
        best = max(current, key=lambda name: current[name])
        current[best] -= sum(weights.values())
        chosen.append(best)
    return chosen


@given(st.lists(st.integers(1, 8), min_size=1, max_size=6))
def test_weighted_turns_are_exact_over_a_cycle_and_as_even_as_those_of_nginx(weights: list[int]) -> None:
    names = {chr(97 + index): weight for index, weight in enumerate(weights)}
    policy = make("weighted_round_robin", *(worker(name, weight=weight) for name, weight in names.items()))
    cycle = sum(weights)
    chosen = [found.worker_id for _ in range(cycle) if (found := policy.choose(0.0))]
    theirs = smooth_as_nginx(names, cycle)
    assert Counter(chosen) == Counter(theirs) == names
    for name, weight in names.items():
        ours = widest_gap(chosen, name)
        assert ours <= max(widest_gap(theirs, name), -(-cycle // weight) + len(names))


def widest_gap(chosen: Sequence[str], name: str) -> int:
    places = [index for index, other in enumerate([*chosen, *chosen]) if other == name]
    return max(after - before for before, after in pairwise(places))


def test_who_was_away_gets_no_turns_after_the_fact() -> None:
    a, b = worker("a"), worker("b")
    policy = make("round_robin", a, b)
    policy.discard(b)
    times(policy, 100)
    policy.put(b)
    assert times(policy, 10) == {"a": 5, "b": 5}


def test_a_replica_that_was_busy_for_long_does_not_win_every_tie_afterwards() -> None:
    waters = Waters()
    waters.add("a", in_flight=9)
    waters.add("b")
    assert [waters.choose() for _ in range(50)] == ["b"] * 50
    waters.change("a", in_flight=0)
    assert Counter(waters.choose() for _ in range(10)) == {"a": 5, "b": 5}


def test_random_draws_as_the_weights_say() -> None:
    replicas = [worker("light"), worker("heavy", weight=3.0)]
    chosen = times(make("random", *replicas), 4000)
    assert chosen["heavy"] / 4000 == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("name", ["random", "power_of_two", "least_latency"])
def test_the_same_seed_draws_the_same(name: str) -> None:
    replicas = [worker(letter, index) for index, letter in enumerate("abcdef")]
    one, other = make(name, *replicas, seed=7), make(name, *replicas, seed=7)
    assert [one.choose(0.0) for _ in range(50)] == [other.choose(0.0) for _ in range(50)]


def test_of_two_that_are_drawn_the_less_busy_one_is_taken() -> None:
    assert times(make("power_of_two", worker("busy", 5), worker("idle", 1)), 100) == {"idle": 100}
    assert times(make("power_of_two", worker("busy", 5), worker("large", 6, weight=3.0)), 100) == {"large": 100}
    many = times(make("power_of_two", worker("busiest", 9), *(worker(f"w{n}", 1) for n in range(9))), 1000)
    assert "busiest" not in many


def test_least_latency_weighs_the_latency_with_the_requests() -> None:
    fast, slow = worker("fast", 1), worker("slow", 1)
    fast.latency.observe(0.01, 0.0)
    slow.latency.observe(0.05, 0.0)
    policy = make("least_latency", fast, slow)
    assert times(policy, 50) == {"fast": 50}
    fast.worker.in_flight = 12  # type: ignore[misc]
    assert times(policy, 50) == {"slow": 50}


def test_least_latency_tries_one_of_which_nothing_is_known_with_one_request_at_a_time() -> None:
    known, new = worker("known", 5), worker("new", 0)
    known.latency.observe(0.01, 0.0)
    policy = make("least_latency", known, new)
    assert times(policy, 10) == {"new": 10}
    new.worker.in_flight = 1  # type: ignore[misc]
    assert times(policy, 10) == {"known": 10}


def test_a_straggler_is_forgiven_when_it_has_been_left_alone_for_long() -> None:
    straggler, other = worker("straggler"), worker("other")
    straggler.latency.observe(1.0, 0.0)
    other.latency.observe(0.1, 0.0)
    policy = make("least_latency", straggler, other)
    assert times(policy, 20, now=1.0) == {"other": 20}
    other.latency.observe(0.1, 40.0)
    assert times(policy, 20, now=40.0) == {"straggler": 20}


@pytest.mark.parametrize("name", POLICIES)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["put", "discard", "choose"]), st.integers(0, 7), st.integers(0, 9)), max_size=60
    ),
    excluded=st.sets(st.integers(0, 7)),
)
def test_a_policy_chooses_one_that_it_holds_and_that_is_not_excluded_whenever_there_is_one(
    name: str, steps: list[tuple[str, int, int]], excluded: set[int]
) -> None:
    replicas = [worker(f"w{number}") for number in range(8)]
    policy, held = make(name), set[Replica]()
    assert policy.name == name
    for step, number, load in steps:
        replica = replicas[number]
        if step == "put":
            replica.worker.in_flight = load  # type: ignore[misc]
            policy.put(replica)
            held.add(replica)
        elif step == "discard":
            policy.discard(replica)
            held.discard(replica)
        able = {replica for replica in held if replica not in {replicas[n] for n in excluded}}
        chosen = policy.choose(0.0, {WorkerId(f"w{n}") for n in excluded})
        assert chosen in able if able else chosen is None


@pytest.mark.parametrize("name", POLICIES)
def test_a_newcomer_gets_a_share_that_grows(name: str) -> None:
    def share_at(age: float) -> float:
        old, new = worker("old", capacity=100), Replica(FakeWorker(WorkerId("new"), 100), FISH)
        for replica in (old, new):
            replica.latency.observe(0.1, 0.0)
        new.assess(0.0)
        new.assess(age)
        chosen = Counter[str]()
        policy = make(name, old, new, *(worker(f"w{n}", capacity=100) for n in range(8)))
        for _ in range(500):
            found = policy.choose(age)
            assert found is not None
            chosen[found.worker_id] += 1
        return chosen["new"] / max(1, chosen["old"])

    first, later, grown_up = share_at(0.0), share_at(5.0), share_at(10.0)
    assert first < 0.4
    assert first < later < grown_up + 0.3
    if name != "least_latency":
        assert grown_up == pytest.approx(1.0, abs=0.35)
