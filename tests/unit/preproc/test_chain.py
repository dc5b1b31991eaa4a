from __future__ import annotations

import numpy as np
import pytest

from shoal.errors import EngineFailed, InvalidRequest, Overloaded, ShoalError
from shoal.preproc import Chain
from shoal.types import Tensors, TensorSpec


class Add:
    """``target = a + b`` of single numbers."""

    def __init__(self, a: str, b: str, target: str) -> None:
        self._names = (a, b)
        self._target = target
        self.inputs = (TensorSpec(a, "INT64", (1,)), TensorSpec(b, "INT64", (1,)))
        self.outputs = (TensorSpec(target, "INT64", (1,)),)

    def __call__(self, tensors: Tensors) -> Tensors:
        assert tensors.keys() == set(self._names)
        a, b = self._names
        return {self._target: tensors[a] + tensors[b]}


class Raise:
    inputs = outputs = ()

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __call__(self, tensors: Tensors) -> Tensors:
        raise self._error


def number(value: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([value])


def test_a_step_takes_what_any_before_it_made() -> None:
    chain = Chain([("first", Add("a", "b", "c")), ("second", Add("a", "c", "d")), ("third", Add("c", "d", "a"))])
    made, latest = chain.run({"a": number(1), "b": number(2), "unused": number(0)})
    assert {name: array.item() for name, array in made.items()} == {"c": 3, "d": 4, "a": 7}
    assert latest.keys() == {"a"}
    assert [info.name for info in chain.info] == ["first", "second", "third"]


def test_no_steps_make_nothing() -> None:
    assert Chain().run({"a": number(1)}) == ({}, {})


def test_what_nothing_makes_is_named() -> None:
    with pytest.raises(EngineFailed, match="nothing makes 'b'"):
        Chain([("add", Add("a", "b", "c"))]).run({"a": number(1)})


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ValueError("too deep"), EngineFailed, "step 'dive' failed: ValueError: too deep"),
        (EngineFailed("it must float"), EngineFailed, "step 'dive' failed: it must float"),
        (InvalidRequest("row 3 is no fish"), InvalidRequest, "row 3 is no fish"),
        (Overloaded("later"), Overloaded, "later"),
    ],
)
def test_a_step_that_fails_is_named_unless_it_says_whose_fault_it_is(
    error: Exception, kind: type[ShoalError], message: str
) -> None:
    with pytest.raises(kind) as raised:
        Chain([("dive", Raise(error))]).run({})
    assert type(raised.value) is kind
    assert raised.value.message == message
