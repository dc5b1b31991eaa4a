from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shoal.batcher.policy import MAX_PRIORITY
from shoal.types import Sampling
from shoal.worker.generation.preemption import PROMOTION, TURN
from shoal.worker.generation.sequence import TokenSequence
from shoal.worker.generation.waiting import Waiting


def sequence(group: str = "", *, arrived: float = 0.0, priority: int = 0) -> TokenSequence:
    return TokenSequence((1,), Sampling(), 10, group=group, arrived=arrived, priority=priority)


def taken(
    waiting: Waiting, *, running: tuple[TokenSequence, ...] = (), most: int = 100, at: float = 9.0
) -> list[TokenSequence]:
    """All that are let in one after the other, while nobody ends."""
    order: list[TokenSequence] = []
    while (first := waiting.first([*running, *order], most, at)) is not None:
        waiting.take(first, at)
        order.append(first)
    return order


def filled(*sequences: TokenSequence) -> Waiting:
    waiting = Waiting()
    for each in sequences:
        waiting.append(each)
    return waiting


def test_groups_take_turns_and_those_without_one_are_alone() -> None:
    a, b = [sequence("a") for _ in range(3)], [sequence("b", arrived=1) for _ in range(2)]
    alone = [sequence(arrived=2), sequence(arrived=3)]
    assert taken(filled(*a, *b, *alone)) == [a[0], b[0], *alone, a[1], b[1], a[2]]


def test_a_group_that_holds_all_it_may_waits() -> None:
    waiting = filled(*(sequence("a") for _ in range(5)))
    assert len(taken(waiting, running=(sequence("a"),), most=3)) == 2
    assert len(waiting) == 3


def test_the_parked_come_before_newcomers_that_stand_as_high_and_after_those_that_stand_higher() -> None:
    new, urgent = sequence("b"), sequence(priority=1, arrived=9)
    old = [sequence("a", arrived=number) for number in range(3)]
    waiting = filled(new, urgent)
    for each in reversed(old):
        waiting.park(each, 5.0)
    assert taken(waiting, most=1) == [urgent, *old, new]


def test_an_answer_that_was_begun_elsewhere_comes_before_new_ones_also_of_its_own_request() -> None:
    new = [sequence("a"), sequence("a", arrived=1)]
    begun = [sequence("a", arrived=2), sequence("b", arrived=3)]
    for each in begun:
        each.output = [7]
    assert taken(filled(*new, *begun)) == [*begun, *new]


def test_whose_turn_is_due_is_in_the_middle_of_an_answer_and_has_waited_for_a_while() -> None:
    begun, parked, late = sequence(arrived=1.0), sequence(), sequence()
    begun.output = [7]
    waiting = filled(sequence(), begun)
    waiting.park(parked, 0.5)
    waiting.park(late, 1.0 + TURN)
    assert waiting.due(1.0 + TURN) == [parked, begun]


def test_a_class_counts_as_seconds_of_waiting_and_there_are_only_so_many() -> None:
    for later, first in [(6 * PROMOTION - 1, 6), (6 * PROMOTION, 0)]:
        order = taken(filled(sequence(arrived=0), sequence(arrived=later, priority=6)), at=7 * PROMOTION - 1)
        assert order[0].priority == first
    late = sequence(arrived=MAX_PRIORITY * PROMOTION, priority=10**9)
    assert taken(filled(late, plain := sequence()), at=MAX_PRIORITY * PROMOTION) == [plain, late]


def test_what_waiting_has_gained_is_kept_while_it_runs_and_added_to_when_it_is_parked() -> None:
    patient, waiting = sequence(), Waiting()
    waiting.append(patient)
    waiting.take(patient, 0.6 * PROMOTION)
    assert patient.standing == 0
    waiting.park(patient, 50 * PROMOTION)
    waiting.take(patient, 50.6 * PROMOTION)
    assert patient.standing == 1


def test_a_request_of_many_ages_while_it_is_given_no_place() -> None:
    many = [sequence("many") for _ in range(3)]
    waiting = filled(*many)
    waiting.take(many[0], 2 * PROMOTION)
    assert many[0].standing == 2
    assert waiting.standing(many[1], 2 * PROMOTION) == 0
    assert waiting.standing(many[1], 3 * PROMOTION) == 1


def test_places_of_the_parked_count_as_their_groups() -> None:
    parked, follower, other = sequence("a"), sequence("a"), sequence("b", arrived=3)
    waiting = filled(follower, other)
    waiting.park(parked, 4.0)
    assert taken(waiting) == [parked, other, follower]


def test_of_the_parked_the_one_that_comes_back_last_is_the_first_to_lose_its_blocks() -> None:
    high, old, young, empty = (sequence(priority=n == 0, arrived=n) for n in range(4))
    waiting = Waiting()
    for number, each in enumerate((young, high, old, empty)):
        each.blocks = [number] if each is not empty else []
        waiting.park(each, 5.0)
    assert waiting.holding(6.0) == [young, old, high]


def test_removing_what_does_not_wait_does_nothing() -> None:
    waiting = filled(sequence("a"))
    waiting.remove(sequence("a"))
    waiting.remove(sequence())
    assert len(waiting) == 1


arrivals = st.lists(st.tuples(st.sampled_from(["", "a", "b", "c"]), st.integers(-99, 99)), max_size=40)


@given(arrivals)
def test_everybody_is_let_in_once_and_in_order_inside_a_group(given_in: list[tuple[str, int]]) -> None:
    priorities = dict(given_in)
    sequences = [sequence(group, arrived=at, priority=priorities[group]) for at, (group, _) in enumerate(given_in)]
    order = taken(filled(*sequences))
    assert set(order) == set(sequences)
    for group in "abc":
        inside = [each for each in order if each.group == group]
        assert inside == [each for each in sequences if each.group == group]


@given(arrivals, st.integers(-99, 99))
def test_nobody_starves_behind_those_that_keep_coming(others: list[tuple[str, int]], priority: int) -> None:
    """One place, that is free every second, and somebody new every second."""
    patient = sequence(priority=priority)
    waiting = filled(patient, *(sequence(group, priority=each) for group, each in others))
    for second in range(1, 300):
        waiting.append(sequence(arrived=second, priority=99))
        first = waiting.first((), 1, second)
        assert first is not None
        waiting.take(first, second)
        if first is patient:
            assert second <= 2 * MAX_PRIORITY * PROMOTION + len(others) + 1
            return
    raise AssertionError("it starves")


def test_the_highest_class_is_of_those_that_wait() -> None:
    high, low, waiting = sequence(priority=3), sequence(priority=-1), Waiting()
    assert waiting.highest_class < -MAX_PRIORITY
    for each in (high, low):
        waiting.append(each)
    assert waiting.highest_class == 3
    for _ in range(2):
        waiting.remove(high)
    assert waiting.highest_class == -1
    waiting.park(high, 1.0)
    assert waiting.highest_class == 3
