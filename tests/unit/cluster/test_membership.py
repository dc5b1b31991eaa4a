from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.cluster import MAX_WORKERS, MOVES, Member, Membership
from shoal.errors import Overloaded, ProtocolError
from shoal.load_balancer import Health
from shoal.messages import Load, ModelInfo, Register, Resources, Status
from shoal.types import ModelId, ModelKind, ModelName, ModelPart, ModelState, WorkerId, WorkerState

STARTING, READY, OVERLOADED, DRAINING, GONE = WorkerState
A = WorkerId("a")
FISH = ModelName("fish")
PART = ModelPart(ModelId(FISH))


def info(state: ModelState = ModelState.READY, reason: str = "") -> ModelInfo:
    return ModelInfo(FISH, ModelKind.GENERATE, state, reason=reason)


def registration(
    worker: str = "a", state: WorkerState = READY, instance: str = "1", models: tuple[ModelInfo, ...] = (info(),)
) -> Register:
    return Register(WorkerId(worker), instance, "host:9001", 4, Resources(), state, models, zone="east")


def status(state: WorkerState, *, worker: str = "a", in_flight: int = 0, model: ModelInfo | None = None) -> Status:
    return Status(WorkerId(worker), state, Load(in_flight=in_flight), (model or info(),))


def fleet() -> Membership:
    return Membership(heartbeat_interval=1.0)


def chosen(workers: Membership) -> str | None:
    pool = workers.pool(PART)
    choice = pool.choose("least_connections", Health(), 0.0) if pool else None
    return choice.replica.worker_id if choice else None


@pytest.mark.parametrize("to", WorkerState)
@pytest.mark.parametrize("was", [STARTING, READY, OVERLOADED, DRAINING])
def test_a_report_moves_a_worker_as_the_table_says(was: WorkerState, to: WorkerState) -> None:
    workers = fleet()
    member = workers.registered(registration(state=was), 0.0)
    assert workers.reported(member, status(to), 1.0)
    assert member.state is (to if to in MOVES[was] else was)
    assert (member in workers.members()) == (member.state is not GONE)


def test_the_table_knows_every_state_and_nobody_comes_back_from_the_last_two() -> None:
    assert set(MOVES) == set(WorkerState)
    assert MOVES[DRAINING] == {DRAINING, GONE}
    assert MOVES[GONE] == frozenset()
    assert all(GONE in MOVES[state] for state in WorkerState if state is not GONE)


def test_a_worker_that_is_told_to_drain_stays_so_when_an_older_report_arrives() -> None:
    workers = fleet()
    member = workers.registered(registration(), 0.0)
    workers.draining(member)
    assert workers.reported(member, status(READY, in_flight=3), 1.0)
    assert (member.state, member.load.in_flight, member.heard) == (DRAINING, 3, 1.0)


def test_a_restarted_worker_takes_the_place_of_the_old_one() -> None:
    workers = fleet()
    old = workers.registered(registration(instance="1"), 0.0)
    new = workers.registered(registration(instance="2", state=STARTING), 5.0)
    assert workers.members() == (new,)
    assert (old.state, old.reason) == (GONE, "it registered again")


def test_nothing_that_the_old_one_still_says_or_does_reaches_the_new_one() -> None:
    workers = fleet()
    old = workers.registered(registration(instance="1"), 0.0)
    old.changed_by(1)
    new = workers.registered(registration(instance="2", state=STARTING), 5.0)
    assert not workers.reported(old, status(READY), 6.0)
    workers.draining(old)
    workers.left(old, "its connection ended")
    old.changed_by(-1)
    assert workers.members() == (new,)
    assert (new.state, new.heard, new.in_flight, old.in_flight) == (STARTING, 5.0, 0, 0)


def test_a_report_about_another_worker_is_ignored() -> None:
    workers = fleet()
    member = workers.registered(registration("a"), 0.0)
    other = workers.registered(registration("b"), 0.0)
    assert not workers.reported(member, status(DRAINING, worker="b"), 1.0)
    assert (member.state, other.state) == (READY, READY)


def test_a_worker_leaves_once_and_the_first_reason_stays() -> None:
    workers = fleet()
    member = workers.registered(registration(), 0.0)
    workers.left(member, "it deregistered")
    workers.left(member, "its connection ended")
    assert (len(workers), member.state, member.reason) == (0, GONE, "it deregistered")
    assert not workers.reported(member, status(READY), 1.0)
    assert member.state is GONE


def test_a_suspect_is_cleared_by_a_word() -> None:
    workers = fleet()
    member = workers.registered(registration(), 0.0)
    workers.suspected(member, True)
    assert chosen(workers) is None
    workers.reported(member, status(READY), 3.1)
    assert not member.suspect
    assert chosen(workers) == "a"


def test_members_are_counted_by_state() -> None:
    workers = fleet()
    for name, state in (("a", READY), ("b", READY), ("c", STARTING)):
        workers.registered(registration(name, state), 0.0)
    workers.left(workers.registered(registration("d"), 0.0), "it crashed")
    assert workers.count() == {READY: 2, STARTING: 1}


def test_the_router_sees_each_worker_that_has_the_model_and_those_that_went_last() -> None:
    workers = fleet()
    gone = workers.registered(registration("gone"), 0.0)
    workers.left(gone, "its connection ended")
    workers.registered(registration("other", models=()), 0.0)
    member = workers.registered(registration("a"), 0.0)
    failed = info(ModelState.FAILED, "no such file")
    workers.reported(member, status(OVERLOADED, in_flight=2, model=failed), 1.0)
    here, there = workers.replicas(PART)
    assert (here.worker_id, here.info) == ("a", failed)
    assert (here.worker.state, here.worker.in_flight, here.worker.capacity, here.worker.zone) == (
        OVERLOADED,
        2,
        4,
        "east",
    )
    assert (there.worker_id, there.worker.state, there.worker.reason) == ("gone", GONE, "its connection ended")
    assert workers.replicas(ModelPart(ModelId(ModelName("salmon")))) == []


def test_a_worker_that_has_come_back_is_seen_once() -> None:
    workers = fleet()
    workers.left(workers.registered(registration(instance="1"), 0.0), "it crashed")
    workers.registered(registration(instance="2"), 1.0)
    (replica,) = workers.replicas(PART)
    assert replica.worker.state is READY


def test_a_worker_may_have_several_shards_of_a_model() -> None:
    workers = fleet()
    shards = tuple(ModelInfo(FISH, ModelKind.TENSOR, ModelState.READY, shard=shard) for shard in (0, 2))
    member = workers.registered(registration(models=shards), 0.0)
    assert [len(workers.pool(ModelPart(ModelId(FISH), shard)) or ()) for shard in range(3)] == [1, 0, 1]
    assert workers.pool(PART) is None
    workers.reported(member, Status(A, READY, Load(), shards[1:]), 1.0)
    assert workers.pool(ModelPart(ModelId(FISH), 0)) is None
    assert list(member.replicas) == [ModelPart(ModelId(FISH), 2)]


def test_every_event_shows_in_what_the_router_may_choose() -> None:
    workers = fleet()
    member = workers.registered(registration(state=STARTING, models=(info(ModelState.LOADING),)), 0.0)
    assert chosen(workers) is None
    workers.reported(member, status(READY), 1.0)
    assert chosen(workers) == "a"
    member.changed_by(4)
    assert chosen(workers) is None  # full
    member.changed_by(-4)
    assert chosen(workers) == "a"
    workers.reported(member, status(READY, in_flight=4), 2.0)
    assert chosen(workers) is None  # full of others' requests
    workers.reported(member, status(READY), 3.0)
    workers.draining(member)
    assert chosen(workers) is None


def test_requests_count_from_the_moment_they_are_sent_until_they_end() -> None:
    workers = fleet()
    member = workers.registered(registration(), 0.0)
    member.changed_by(2)
    assert member.in_flight == 2
    workers.reported(member, status(READY, in_flight=1), 1.0)
    assert member.in_flight == 2
    workers.reported(member, status(READY, in_flight=3), 1.0)
    assert member.in_flight == 3
    member.changed_by(-2)
    assert (member.sent, member.in_flight) == (0, 1)  # what another coordinator has there


def test_a_worker_cannot_register_as_one_that_has_gone() -> None:
    with pytest.raises(ProtocolError, match="cannot register as gone"):
        fleet().registered(registration(state=GONE), 0.0)


def test_the_fleet_is_bounded_and_a_known_worker_may_still_come_back() -> None:
    workers = fleet()
    for index in range(MAX_WORKERS):
        workers.registered(registration(f"w{index}"), 0.0)
    with pytest.raises(Overloaded, match=str(MAX_WORKERS)):
        workers.registered(registration("one more"), 0.0)
    workers.registered(registration("w0", instance="2"), 0.0)
    assert len(workers) == MAX_WORKERS


def test_of_those_that_went_only_some_are_kept() -> None:
    workers = fleet()
    for index in range(1000):
        workers.left(workers.registered(registration(f"w{index}"), 0.0), "it crashed")
    assert [replica.worker_id for replica in workers.replicas(PART)] == [f"w{index}" for index in range(968, 1000)]
    assert workers.pool(PART) is None


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["register", "report", "drain", "leave"]), st.integers(0, 5), st.sampled_from(WorkerState)
    ),
    max_size=40,
)


@given(EVENTS)
def test_every_move_is_in_the_table_and_one_registration_of_a_worker_is_current(
    events: list[tuple[str, int, WorkerState]],
) -> None:
    workers, seen = fleet(), list[Member]()
    for now, (event, number, state) in enumerate(events):
        before = {id(member): member.state for member in seen}
        if event == "register" and state is not GONE:
            seen.append(workers.registered(registration("ab"[number % 2], state), now))
        elif seen:
            member = seen[number % len(seen)]  # perhaps an old one
            match event:
                case "report":
                    workers.reported(member, status(state, worker=member.worker_id), now)
                case "drain":
                    workers.draining(member)
                case "leave":
                    workers.left(member, "it crashed")
        for member in seen:
            was = before.get(id(member), member.state)
            assert member.state is was or member.state in MOVES[was]
        assert set(workers.members()) == {member for member in seen if member.state is not GONE}
        assert len({member.worker_id for member in workers.members()}) == len(workers)
        assert +Counter(workers.count()) == Counter(member.state for member in workers.members())
        able = {member.worker_id for member in workers.members() if member.state is READY}
        assert chosen(workers) in able if able else chosen(workers) is None


def test_a_heartbeat_counts_the_load_and_heals_a_suspect() -> None:
    members = fleet()
    member = members.registered(registration(), 0.0)
    members.suspected(member, True)
    members.loaded(member, Load(in_flight=3), 2.0)
    assert (member.in_flight, member.suspect, member.heard) == (3, False, 2.0)


def test_a_heartbeat_of_an_earlier_registration_changes_nothing() -> None:
    members = fleet()
    earlier = members.registered(registration(), 0.0)
    members.registered(registration(), 1.0)
    members.loaded(earlier, Load(in_flight=3), 2.0)
    assert (earlier.in_flight, earlier.heard) == (0, 0.0)


def test_one_that_fell_comes_back_with_its_standing() -> None:
    members = fleet()
    member = members.registered(registration(), 0.0)
    members.fell(member, 1.0)
    members.left(member, "its connection ended")
    again = members.registered(registration(), 1.0)
    assert again.reliability.at(1.0) == 0.5
