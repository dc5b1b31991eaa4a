from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.load_balancer import POLICIES, LeastConnections, Replica, eligible
from shoal.types import WorkerId, WorkerState

READY = WorkerState.READY


def replica(name: str, in_flight: int, capacity: int = 10, state: WorkerState = READY) -> Replica:
    return Replica(WorkerId(name), state, capacity, in_flight)


def choose(*replicas: Replica) -> str | None:
    chosen = LeastConnections().choose(replicas, 0.0)
    return chosen.worker_id if chosen else None


@pytest.mark.parametrize(
    ("replicas", "expected"),
    [
        pytest.param([], None, id="there is none"),
        pytest.param([replica("a", 3), replica("b", 2)], "b", id="the one with fewer requests"),
        pytest.param([replica("a", 3, 10), replica("b", 4, 100)], "b", id="the one with more room for its size"),
        pytest.param([replica("a", 9, 10), replica("b", 10, 10)], "a", id="not a full one"),
        pytest.param([replica("a", 11, 10)], None, id="not one that is over its capacity"),
        pytest.param([replica("a", 0, 0)], None, id="not one without capacity"),
        *(
            pytest.param([replica("a", 0, state=state), replica("b", 9)], "b", id=f"not one that is {state}")
            for state in WorkerState
            if state is not READY
        ),
    ],
)
def test_least_connections_chooses(replicas: list[Replica], expected: str | None) -> None:
    assert choose(*replicas) == expected


def test_equals_take_turns() -> None:
    policy = LeastConnections()
    equals = [replica(name, 0) for name in "abc"]
    chosen = [policy.choose(equals, 0.0) for _ in range(6)]
    assert [replica.worker_id for replica in chosen if replica] == list("abcabc")


def test_equals_take_turns_when_models_on_other_workers_are_asked_for_in_between() -> None:
    policy = LeastConnections()
    chosen = Counter[str]()
    for _ in range(10):
        for workers in ("ab", "c"):
            found = policy.choose([replica(name, 0) for name in workers], 0.0)
            assert found is not None
            chosen[found.worker_id] += 1
    assert chosen == {"a": 5, "b": 5, "c": 10}


def test_what_is_remembered_of_turns_is_bounded_and_the_oldest_turn_is_forgotten_first() -> None:
    policy = LeastConnections()
    names = ["steady", *(f"worker-{index}" for index in range(policy._REMEMBERED - 1)), "steady", "one more"]
    for name in names:
        policy.choose([replica(name, 0)], 0.0)
    assert len(policy._last_turn) == policy._REMEMBERED
    assert policy.choose([replica("steady", 0), replica("worker-0", 0)], 0.0) == replica("worker-0", 0)


REPLICAS = st.lists(
    st.builds(
        Replica,
        worker_id=st.sampled_from("abcdefgh").map(WorkerId),
        state=st.sampled_from(WorkerState),
        capacity=st.integers(0, 4),
        in_flight=st.integers(0, 5),
    ),
    max_size=8,
    unique_by=lambda replica: replica.worker_id,
)


@pytest.mark.parametrize("name", POLICIES)
@given(fleets=st.lists(REPLICAS, max_size=5))
def test_a_policy_chooses_an_eligible_replica_whenever_there_is_one(name: str, fleets: list[list[Replica]]) -> None:
    policy = POLICIES[name]()
    assert policy.name == name
    for replicas in fleets:
        chosen = policy.choose(replicas, 0.0)
        able = eligible(replicas)
        assert chosen in able if able else chosen is None
        assert all(replica.state is READY and replica.in_flight < replica.capacity for replica in able)


@given(fleets=st.lists(REPLICAS, max_size=5))
def test_the_same_calls_get_the_same_answers(fleets: list[list[Replica]]) -> None:
    one, other = LeastConnections(), LeastConnections()
    assert [one.choose(replicas, 0.0) for replicas in fleets] == [other.choose(replicas, 0.0) for replicas in fleets]
