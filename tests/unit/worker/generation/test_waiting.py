from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shoal.batcher.policy import MAX_PRIORITY, PROMOTION
from shoal.types import Sampling
from shoal.worker.generation.sequence import TokenSequence
from shoal.worker.generation.waiting import Waiting


def sequence(group: str = "", *, arrived: float = 0.0, priority: int = 0) -> TokenSequence:
    return TokenSequence((1,), Sampling(), 10, group=group, arrived=arrived, priority=priority)


def taken(waiting: Waiting, *, running: tuple[TokenSequence, ...] = (), most: int = 100) -> list[TokenSequence]:
    """All that are let in one after the other, while nobody ends."""
    order: list[TokenSequence] = []
    while (first := waiting.first([*running, *order], most)) is not None:
        waiting.remove(first)
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


def test_who_was_sent_back_comes_first() -> None:
    new, old = sequence(priority=9), [sequence("a", arrived=8), sequence("a", arrived=9)]
    waiting = filled(new)
    for each in reversed(old):
        waiting.send_back(each)
    assert list(waiting) == [*old, new]
    assert taken(waiting, most=1) == [*old, new]


def test_priority_counts_as_seconds_of_waiting_and_only_so_many() -> None:
    urgent, plain = sequence(arrived=5, priority=6), sequence(arrived=0)
    assert taken(filled(plain, urgent)) == [urgent, plain]
    late = sequence(arrived=MAX_PRIORITY * PROMOTION + 1, priority=10**9)
    assert taken(filled(late, plain)) == [plain, late]


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
    for second in range(1, 200):
        waiting.append(sequence(arrived=second, priority=99))
        first = waiting.first((), 1)
        assert first is not None
        waiting.remove(first)
        if first is patient:
            assert second <= 2 * MAX_PRIORITY * PROMOTION + len(others) + 1
            return
    raise AssertionError("it starves")
