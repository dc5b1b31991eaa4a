"""Who is next, and who may wait: tables, and invariants over drawn histories."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.coordinator.admission.fair_queue import MAX_PRIORITY, PROMOTION, THRESHOLD, FairQueue, Waiting

WEIGHTS = {"gold": 3.0, "bronze": 0.5}
FAR = 1000.0


def queue() -> FairQueue:
    return FairQueue(lambda tenant: WEIGHTS.get(tenant, 1.0))


class Make:
    def __init__(self) -> None:
        self.number = 0

    def __call__(
        self, tenant: str = "a", *, cost: int = 1, deadline: float = FAR, arrived: float = 0.0, priority: int = 0
    ) -> Waiting:
        self.number += 1
        return Waiting(tenant, cost=cost, deadline=deadline, arrived=arrived, number=self.number, priority=priority)


@pytest.fixture
def make() -> Make:
    return Make()


def filled(*waiting: Waiting) -> FairQueue:
    made = queue()
    for one in waiting:
        made.put(one)
    return made


def taken(made: FairQueue, number: int) -> list[Waiting]:
    return [made.take() for _ in range(number)]


def tenants(made: FairQueue, number: int) -> Counter[str]:
    return Counter(waiting.tenant for waiting in taken(made, number))


# -- inside a tenant


def test_those_of_one_kind_go_in_the_order_they_came(make: Make) -> None:
    first, second, third = make(arrived=0.0), make(arrived=0.0), make(arrived=0.1)
    assert taken(filled(third, second, first), 3) == [first, second, third]


def test_the_earliest_deadline_goes_first(make: Make) -> None:
    late, soon, never = make(deadline=3.0), make(deadline=2.0), make()
    assert taken(filled(never, late, soon), 3) == [soon, late, never]


def test_a_higher_class_goes_first_whatever_the_deadlines(make: Make) -> None:
    urgent, patient = make(deadline=PROMOTION / 2), make(priority=1)
    assert taken(filled(urgent, patient), 2) == [patient, urgent]


def test_age_promotes_by_a_class(make: Make) -> None:
    old, new = make(arrived=0.0), make(arrived=PROMOTION + 0.1, priority=1)
    assert taken(filled(new, old), 2) == [old, new]


def test_priorities_beyond_the_bound_count_as_it(make: Make) -> None:
    first, second = make(priority=MAX_PRIORITY), make(priority=100)
    assert taken(filled(second, first), 2) == [first, second]


@given(st.lists(st.tuples(st.floats(0, 300), st.floats(0.1, 400), st.integers(-100, 100)), min_size=2, max_size=20))
def test_nobody_is_overtaken_by_who_comes_much_later(asked: list[tuple[float, float, int]]) -> None:
    make = Make()
    waiting = [make(arrived=at, deadline=at + within, priority=priority) for at, within, priority in asked]
    order = taken(filled(*waiting), len(waiting))
    arrived = {one: at for one, (at, _, _) in zip(waiting, asked, strict=True)}
    for index, one in enumerate(order):
        ahead = [arrived[other] for other in order[:index]]
        assert max(ahead, default=0.0) <= arrived[one] + (2 * MAX_PRIORITY + 1) * PROMOTION + 1e-6


# -- between tenants


def test_tenants_of_one_weight_take_turns_however_many_each_has(make: Make) -> None:
    made = filled(*(make("greedy") for _ in range(100)), *(make("polite") for _ in range(10)))
    assert tenants(made, 20) == {"greedy": 10, "polite": 10}


def test_turns_are_shared_by_weight(make: Make) -> None:
    made = filled(*(make(name) for name in ("gold", "a", "bronze") for _ in range(100)))
    assert tenants(made, 90) == {"gold": 60, "a": 20, "bronze": 10}


def test_what_is_shared_is_cost_not_turns(make: Make) -> None:
    made = filled(*(make("long", cost=10) for _ in range(50)), *(make("short") for _ in range(50)))
    assert tenants(made, 44) == {"long": 4, "short": 40}


def test_priority_moves_nobody_ahead_of_another_tenant(make: Make) -> None:
    made = filled(*(make("pushy", priority=100) for _ in range(50)), *(make("polite") for _ in range(50)))
    assert tenants(made, 20) == {"pushy": 10, "polite": 10}


def test_who_was_away_begins_where_the_others_are(make: Make) -> None:
    made = filled(*(make("a") for _ in range(200)), make("late"))
    tenants(made, 100)
    for _ in range(50):
        made.put(make("late"))
    assert tenants(made, 40) == {"a": 20, "late": 20}


def test_who_leaves_and_comes_back_keeps_what_it_owes(make: Make) -> None:
    made = filled(*(make("a") for _ in range(50)))
    made.put(make("b", cost=20))
    assert tenants(made, 2) == {"a": 1, "b": 1}
    for _ in range(30):
        made.put(make("b"))
    assert tenants(made, 19) == {"a": 19}


def test_what_a_turn_really_took_is_settled(make: Make) -> None:
    made = filled(*(make("a") for _ in range(90)), *(make("b") for _ in range(90)))
    tenants(made, 2)
    made.settle("a", 10)
    assert tenants(made, 10) == {"b": 10}
    made.settle("nobody", 10)


def test_what_comes_back_does_not_let_a_tenant_save_up(make: Make) -> None:
    made = filled(*(make("a") for _ in range(90)), *(make("b") for _ in range(90)))
    tenants(made, 2)
    made.settle("a", -1000)
    assert tenants(made, 20)["b"] >= 9


# -- the queue


def test_who_leaves_is_out_at_once_and_only_once(make: Make) -> None:
    stays, goes = make(), make()
    made = filled(goes, stays)
    made.remove(goes)
    made.remove(goes)
    assert len(made) == 1
    assert made.take() is stays
    made.remove(stays)
    assert (len(made), made.first()) == (0, None)


def test_a_tenant_may_fill_most_of_the_room_and_never_all_of_it(make: Make) -> None:
    made, room = queue(), 90
    while made.has_room("greedy", room - len(made)):
        made.put(make("greedy"))
    greedy = len(made)
    assert greedy == round(room * THRESHOLD / (THRESHOLD + 1))
    while made.has_room("polite", room - len(made)):
        made.put(make("polite"))
    assert len(made) - greedy >= (room - greedy) * 0.8
    assert len(made) < room
    assert not made.has_room("third", 0)


def test_more_weight_is_more_room(make: Make) -> None:
    gold, bronze = filled(*(make("gold") for _ in range(20))), filled(*(make("bronze") for _ in range(20)))
    assert gold.has_room("gold", 1)
    assert not bronze.has_room("bronze", 1)


@pytest.mark.parametrize(
    ("tenant", "ahead"),
    [
        ("a", 10 + 11 / 1 * 3),  # its own ten, and for each of them and for itself three of gold
        ("gold", 40),  # its own, and all that the others have, as they have few
        ("new", 4),  # gold's and a's turns while it waits for its first
    ],
)
def test_what_is_ahead_is_the_tenants_own_and_what_weights_give_the_others(
    make: Make, tenant: str, ahead: float
) -> None:
    made = filled(*(make("a") for _ in range(10)), *(make("gold") for _ in range(30 if tenant == "gold" else 90)))
    assert made.ahead(make(tenant)) == pytest.approx(ahead)


def test_who_is_more_urgent_has_less_ahead(make: Make) -> None:
    made = filled(*(make() for _ in range(10)))
    assert made.ahead(make(priority=1)) == 0
    assert made.ahead(make(deadline=1.0)) == 0
    assert made.ahead(make()) == 10


def test_tenants_that_came_once_leave_nothing_behind(make: Make) -> None:
    made = filled(*(make("stays") for _ in range(2000)))
    for number in range(1000):
        made.put(make(f"passes {number}"))
    while any(name != "stays" for name in made._backlogged):
        made.take()
    taken(made, 100)
    made.put(one := make("last"))
    made.remove(one)
    assert len(made._flows) <= 70
    taken(made, len(made))
    assert not made._flows


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("abc"), st.integers(1, 9), st.integers(-2, 2)),
        st.tuples(st.just("take")),
        st.tuples(st.just("leave"), st.integers(0, 50)),
        st.tuples(st.just("settle"), st.sampled_from("abc"), st.integers(-9, 9)),
    ),
    max_size=120,
)


@given(ACTIONS)
@settings(deadline=None)  # the machine may be busy
def test_everybody_who_waits_gets_one_turn_or_leaves(actions: list[tuple[object, ...]]) -> None:
    make, made, inside = Make(), queue(), list[Waiting]()
    for action in actions:
        match action:
            case ("put", str(tenant), int(cost), int(priority)):
                inside.append(make(tenant, cost=cost, priority=priority))
                made.put(inside[-1])
            case ("take",) if inside:
                first = made.first()
                assert made.take() is first
                assert first is not None
                inside.remove(first)
            case ("leave", int(index)) if inside:
                made.remove(inside.pop(index % len(inside)))
            case ("settle", str(tenant), int(extra)):
                made.settle(tenant, extra)
        assert len(made) == len(inside)
    assert Counter(taken(made, len(inside))) == Counter(inside)
    assert not made._backlogged


@given(st.dictionaries(st.sampled_from("abcdef"), st.floats(0.2, 5), min_size=2), st.integers(1, 9), st.data())
@settings(deadline=None)
def test_while_all_want_more_none_gets_less_than_its_share_but_for_one_request(
    weights: dict[str, float], largest: int, data: st.DataObject
) -> None:
    """The bound of start-time fair queueing, for any two that are backlogged all the time."""
    make, made = Make(), FairQueue(weights.__getitem__)
    costs = st.integers(1, largest)
    for tenant in weights:
        for cost in data.draw(st.lists(costs, min_size=40, max_size=40)):
            made.put(make(tenant, cost=cost))
    served = Counter[str]()
    for _ in range(30):
        waiting = made.take()
        served[waiting.tenant] += waiting.cost
    for one, weight in weights.items():
        for other, others in weights.items():
            gap = served[one] / weight - served[other] / others
            assert abs(gap) <= largest / weight + largest / others + 1e-6
