"""Who of a model's replicas is asked: near ones first, none that is full, away, ejected or silent."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.load_balancer.fakes import FISH, Waters

from shoal.load_balancer import POLICIES, HealthLimits, Outcome, Room, Tier
from shoal.messages import ModelInfo
from shoal.types import ModelKind, ModelName, ModelState, WorkerId, WorkerState


def test_an_empty_pool_has_no_choice() -> None:
    assert Waters().choose() is None


@pytest.mark.parametrize(
    "away",
    [
        {"in_flight": 10},
        {"in_flight": 11},
        {"capacity": 0},
        {"suspect": True},
        *({"state": state} for state in WorkerState if state is not WorkerState.READY),
    ],
)
def test_a_replica_that_can_take_nothing_is_passed_over_until_it_can_again(away: dict[str, object]) -> None:
    waters = Waters()
    waters.add("a")
    waters.add("b", in_flight=9)
    before = {field: getattr(waters.workers["a"], field) for field in away}
    waters.change("a", **away)
    assert [waters.choose() for _ in range(3)] == ["b"] * 3
    waters.change("a", **before)
    assert waters.choose() == "a"


@pytest.mark.parametrize("state", [ModelState.LOADING, ModelState.FAILED])
def test_a_replica_whose_model_is_not_ready_is_no_replica_yet(state: ModelState) -> None:
    waters = Waters()
    replica = waters.add("a")
    ready = replica.info
    replica.info = ModelInfo(ModelName("fish"), ModelKind.GENERATE, state)
    waters.pool.changed(replica)
    assert waters.choose() is None
    assert waters.pool.serving == 0
    replica.info = ready
    waters.pool.changed(replica)
    assert waters.choose() == "a"


def test_a_removed_replica_is_not_chosen_and_tells_nobody_any_more() -> None:
    waters = Waters()
    replica = waters.add("a")
    waters.pool.remove(replica)
    assert (waters.choose(), len(waters.pool), replica.pool) == (None, 0, None)


# -- zones


def test_replicas_of_the_coordinators_zone_come_first_and_others_when_those_are_full() -> None:
    waters = Waters(zone="east")
    waters.add("near", zone="east", capacity=2)
    waters.add("far", zone="west", capacity=2)
    assert [waters.ask() for _ in range(5)] == ["near", "near", "far", "far", None]
    waters.change("near", in_flight=1)
    assert waters.ask() == "near"


def test_the_choice_says_in_which_tier_it_was_made() -> None:
    waters = Waters(zone="east")
    waters.add("far", zone="west")
    choice = waters.pool.choose("random", waters.health, 0.0)
    assert choice is not None
    assert choice.tier is Tier.REMOTE


def test_a_coordinator_without_a_zone_has_no_preference() -> None:
    waters = Waters("round_robin")
    waters.add("a", zone="east")
    waters.add("b", zone="west")
    assert Counter(waters.choose() for _ in range(10)) == {"a": 5, "b": 5}


# -- ejections


def test_an_ejected_replica_is_parked_and_tried_when_its_time_is_over() -> None:
    waters = Waters()
    waters.add("a")
    waters.add("b", in_flight=9)
    for _ in range(HealthLimits().failures):
        waters.health.end(waters.health.begin(WorkerId("a"), FISH.part, 100.0), Outcome.FAILURE, 100.0)
    assert [waters.choose(100.1) for _ in range(3)] == ["b"] * 3
    assert waters.pool.usable() == 1
    assert waters.choose(100.6) == "a"
    trial = waters.health.begin(WorkerId("a"), FISH.part, 100.6)
    assert waters.choose(100.7) == "b"  # one trial at a time
    waters.health.end(trial, Outcome.SUCCESS, 100.8)
    assert waters.choose(100.8) == "a"


def test_with_a_thousand_ejected_the_one_that_is_back_is_found() -> None:
    waters = Waters("round_robin")
    for number in range(1000):
        waters.add(f"w{number}")
        waters.health.connection_lost(WorkerId(f"w{number}"), 100.0)
    assert waters.choose(100.1) is None
    back = waters.health.begin(WorkerId("w777"), FISH.part, 100.5)
    waters.health.end(back, Outcome.SUCCESS, 100.1)
    assert waters.choose(100.1) == "w777"


def failed(waters: Waters, name: str, now: float = 100.0) -> None:
    """At three requests in a row."""
    for _ in range(3):
        waters.health.end(waters.health.begin(WorkerId(name), FISH.part, now), Outcome.FAILURE, now)


def test_when_all_are_ejected_for_their_answers_the_least_busy_is_asked_as_a_last_resort() -> None:
    waters = Waters()
    for number, name in enumerate("abc"):
        waters.add(name, in_flight=3 - number)
        failed(waters, name)
    assert waters.choose(100.1) is None
    assert waters.choose(100.1, suspects=True) == "c"
    assert waters.choose(100.1, suspects=True, excluded="c") == "b"
    waters.change("b", in_flight=10)
    assert waters.choose(100.1, suspects=True, excluded="c") == "a"
    waters.health.end(waters.health.begin(WorkerId("a"), FISH.part, 103.0), Outcome.SUCCESS, 103.0)
    assert waters.choose(100.1, suspects=True) == "a"  # one that is well comes first


def test_one_whose_connection_was_lost_is_no_resort_before_its_time_is_over() -> None:
    waters = Waters()
    waters.add("a")
    failed(waters, "a")
    waters.health.connection_lost(WorkerId("a"), 100.0)
    assert waters.choose(100.1, suspects=True) is None
    trial = waters.health.begin(WorkerId("a"), FISH.part, 103.0)
    waters.health.end(trial, Outcome.SUCCESS, 103.0)
    failed(waters, "a", 104.0)
    assert waters.choose(104.1, suspects=True) == "a"


# -- silence


def test_a_silent_worker_is_asked_only_as_a_last_resort() -> None:
    waters = Waters()
    waters.add("silent", suspect=True)
    waters.add("busy", capacity=1)
    assert waters.choose(suspects=True) == "busy"
    waters.change("busy", in_flight=1)
    assert waters.choose() is None
    assert waters.choose(suspects=True) == "silent"
    assert waters.choose(suspects=True, excluded="silent") is None


def test_a_full_silent_worker_is_no_resort() -> None:
    waters = Waters()
    waters.add("silent", suspect=True, in_flight=10)
    assert waters.choose(suspects=True) is None


# -- newcomers


def test_a_newcomer_that_goes_before_anybody_asks_is_not_held() -> None:
    waters = Waters()
    waters.add("stays", new=True)
    goes = waters.add("goes", new=True)
    waters.pool.remove(goes)
    assert goes not in waters.pool._growing


def test_a_newcomer_is_let_in_step_by_step() -> None:
    waters = Waters("round_robin")
    waters.add("old")
    waters.add("new", new=True)
    first = Counter(waters.choose(100.0) for _ in range(100))
    assert first["new"] < 20
    grown_up = Counter(waters.choose(111.0) for _ in range(100))
    assert grown_up["new"] == pytest.approx(50, abs=6)


def test_newcomers_among_themselves_are_equals() -> None:
    waters = Waters("round_robin")
    for name in "abcd":
        waters.add(name, new=True)
    assert Counter(waters.choose() for _ in range(40)) == dict.fromkeys("abcd", 10)


# -- what holds always


def test_the_policy_may_change_while_requests_flow() -> None:
    waters = Waters()
    for name in "abc":
        waters.add(name)
    for waters.balancing in POLICIES:
        assert waters.choose() is not None


def test_excluded_replicas_are_not_counted_as_usable() -> None:
    waters = Waters()
    for name in "abc":
        waters.add(name, in_flight=10)
    assert waters.pool.usable({WorkerId("a"), WorkerId("stranger")}) == 2


@pytest.mark.parametrize("balancing", POLICIES)
@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 5),
            st.fixed_dictionaries(
                {},
                optional={
                    "in_flight": st.integers(0, 3),
                    "state": st.sampled_from(WorkerState),
                    "suspect": st.booleans(),
                },
            ),
        ),
        max_size=40,
    ),
    zone=st.sampled_from(["", "east"]),
)
def test_whatever_happens_a_choice_is_able_and_none_is_missed(
    balancing: str, steps: list[tuple[int, dict[str, object]]], zone: str
) -> None:
    waters = Waters(balancing, zone=zone)
    for number in range(6):
        waters.add(f"w{number}", capacity=3, zone="east" if number % 2 else "west", new=number > 3)
    for number, change in steps:
        waters.change(f"w{number}", **change)
        able = {
            worker.worker_id: worker
            for worker in waters.workers.values()
            if worker.state is WorkerState.READY and worker.in_flight < worker.capacity and not worker.suspect
        }
        chosen = waters.choose()
        assert chosen in able if able else chosen is None
        if chosen is not None and zone and any(worker.zone == zone for worker in able.values()):
            assert waters.workers[chosen].zone == zone
        serving = {WorkerState.READY, WorkerState.OVERLOADED}
        assert waters.pool.serving == sum(worker.state in serving for worker in waters.workers.values())


@pytest.mark.parametrize("balancing", POLICIES)
def test_the_same_events_and_seed_give_the_same_choices(balancing: str) -> None:
    def choices() -> list[str | None]:
        waters = Waters(balancing, seed=3)
        for number in range(20):
            waters.add(f"w{number}", in_flight=number % 3, new=number % 2 == 0)
        return [waters.ask(100.0 + number / 10) for number in range(150)]

    assert choices() == choices()


# -- what they take together


def test_room_is_what_those_who_serve_take_and_free_while_one_of_them_has_some() -> None:
    waters = Waters()
    assert waters.pool.room == Room(0, 0, is_free=False)
    waters.add("a", capacity=2)
    waters.add("b", capacity=3)
    assert waters.pool.room == Room(5, 5, is_free=True)
    waters.change("a", in_flight=2)
    assert waters.pool.room == Room(5, 5, is_free=True)
    waters.change("b", in_flight=3)
    assert waters.pool.room == Room(5, 5, is_free=False)
    waters.change("a", in_flight=1)
    assert waters.pool.room.is_free


def test_a_replica_that_says_what_it_makes_use_of_has_as_many_places() -> None:
    waters = Waters()
    replica = waters.add("a", capacity=128)
    replica.info = msgspec.structs.replace(replica.info, at_once=40)
    waters.pool.changed(replica)
    assert waters.pool.room == Room(40, 128, is_free=True)


@pytest.mark.parametrize("away", [{"suspect": True}, {"state": WorkerState.DRAINING}, {"state": WorkerState.GONE}])
def test_who_is_silent_or_leaves_is_not_counted(away: dict[str, object]) -> None:
    waters = Waters()
    waters.add("a", capacity=2)
    waters.add("b", capacity=3)
    waters.change("a", **away)
    assert waters.pool.room == Room(3, 3, is_free=True)
    waters.pool.remove(waters.replicas["b"])
    assert waters.pool.room == Room(0, 0, is_free=False)


def test_an_ejected_replica_is_counted_again_when_it_is_tried() -> None:
    waters = Waters()
    waters.add("a")
    waters.add("b")
    for _ in range(20):
        waters.health.end(waters.health.begin(WorkerId("a"), FISH.part, 100.0), Outcome.FAILURE, 100.0)
    assert {waters.choose(100.0) for _ in range(5)} == {"b"}
    assert waters.pool.room.places == 10
    waters.choose(10_000.0)
    assert waters.pool.room.places == 20


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(list(WorkerState)), st.booleans(), st.integers(0, 12)))
)
def test_the_sums_are_those_of_the_replicas_whatever_happens(
    events: list[tuple[str, WorkerState, bool, int]],
) -> None:
    waters = Waters()
    for name in "abc":
        waters.add(name)
    for name, state, suspect, in_flight in events:
        waters.change(name, state=state, suspect=suspect, in_flight=in_flight)
        serving = [one for one in waters.replicas.values() if one.is_serving and not one.worker.suspect]
        assert waters.pool.room == Room(
            sum(one.places for one in serving),
            sum(one.worker.capacity for one in serving),
            is_free=any(one.has_room for one in serving),
        )
