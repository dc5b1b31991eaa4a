"""A tensor answer that is computed anew goes on behind what was there, and only if that comes out the same."""

from __future__ import annotations

import numpy as np
import pytest

from shoal.coordinator.parts_again import PartsAgain
from shoal.errors import WorkerLost
from shoal.messages import Inferred
from shoal.types import Array

END = Inferred({})


def part(*values: float, name: str = "y") -> Inferred:
    return Inferred({name: np.array(values)}, last=False)


def new(answer: PartsAgain, *parts: Inferred) -> list[Inferred]:
    """Those that are new when these come."""
    found = []
    for one in parts:
        if not answer.is_known(one):
            answer.add(one)
            found.append(one)
    return found


def test_an_answer_in_one_go_is_new_all_of_it() -> None:
    parts = [part(1), part(2), END]
    assert new(PartsAgain(), *parts) == parts


def test_what_came_before_is_left_out_however_often_it_breaks_off() -> None:
    answer = PartsAgain()
    one, two, three, four = (part(value) for value in range(4))
    assert new(answer, one, two) == [one, two]
    answer.begin()
    assert new(answer, one) == []
    answer.begin()
    assert new(answer, one, two, three) == [three]
    answer.begin()
    assert new(answer, one, two, three, four, END) == [four, END]
    assert not answer.differs


def test_one_that_had_begun_with_nothing_begins_anew() -> None:
    answer = PartsAgain()
    answer.begin()
    assert new(answer, part(1), END) == [part(1), END]


def words(*values: bytes) -> Array:
    return np.array(values, dtype=np.object_)


@pytest.mark.parametrize(
    ("before", "again"),
    [
        (part(1.0), part(1.0 + 1e-12)),
        (part(1.0), part(1.0, 1.0)),
        (part(1.0), part(1.0, name="z")),
        (part(1.0), Inferred({"y": np.array([1.0], np.float32)}, last=False)),
        (part(1.0, 2.0), Inferred({"y": np.array([[1.0], [2.0]])}, last=False)),
        (part(1.0), Inferred({}, last=False)),
        (part(1.0), END),
        (Inferred({"y": words(b"ab", b"c")}, last=False), Inferred({"y": words(b"a", b"bc")}, last=False)),
        (
            Inferred({"a": np.array([1]), "b": np.array([2])}, last=False),
            Inferred({"a": np.array([2]), "b": np.array([1])}, last=False),
        ),
    ],
    ids=["value", "length", "name", "dtype", "shape", "nothing", "end", "bytes", "swapped"],
)
def test_what_comes_out_otherwise_is_not_joined(before: Inferred, again: Inferred) -> None:
    answer = PartsAgain()
    new(answer, before)
    answer.begin()
    with pytest.raises(WorkerLost, match="begins otherwise"):
        answer.is_known(again)
    assert answer.differs


def test_the_order_of_names_does_not_count() -> None:
    answer = PartsAgain()
    new(answer, Inferred({"a": words(b"x"), "b": np.zeros((0, 3))}, last=False))
    answer.begin()
    assert answer.is_known(Inferred({"b": np.zeros((0, 3)), "a": words(b"x")}, last=False))


def test_of_several_parts_an_early_one_that_differs_is_found_before_anything_new_comes() -> None:
    answer = PartsAgain()
    new(answer, part(1), part(2))
    answer.begin()
    assert answer.is_known(part(0))
    with pytest.raises(WorkerLost):
        answer.is_known(part(2))
