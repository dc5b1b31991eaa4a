from __future__ import annotations

import numpy as np
import pytest

from shoal.batcher.stacking import count_rows, split, stack, stacking_key
from shoal.errors import EngineFailed, InvalidRequest
from shoal.types import Tensors


def test_what_is_stacked_comes_apart_again() -> None:
    one: Tensors = {"x": np.arange(6).reshape(2, 3), "t": np.array([b"a", b"b"], dtype=object)}
    two: Tensors = {"x": np.arange(3).reshape(1, 3), "t": np.array([b"c"], dtype=object)}
    for part, back in zip((one, two), split(stack([one, two]), [2, 1]), strict=True):
        assert back.keys() == part.keys()
        for name in part:
            np.testing.assert_array_equal(back[name], part[name])
            assert back[name].dtype == part[name].dtype


def test_a_single_part_is_not_copied() -> None:
    array = np.zeros((4, 4))
    assert stack([{"x": array}])["x"] is array


@pytest.mark.parametrize(
    "other",
    [
        {"x": np.zeros((1, 4), np.float32)},
        {"x": np.zeros((1, 3), np.float64)},
        {"y": np.zeros((1, 3), np.float32)},
        {"x": np.zeros((1, 3), np.float32), "y": np.zeros(1)},
    ],
    ids=["another shape", "another dtype", "another name", "one input more"],
)
def test_inputs_that_differ_in_more_than_rows_have_other_keys(other: Tensors) -> None:
    assert stacking_key(other) != stacking_key({"x": np.zeros((1, 3), np.float32)})


def test_the_number_of_rows_is_no_part_of_the_key() -> None:
    assert stacking_key({"x": np.zeros((1, 3))}) == stacking_key({"x": np.zeros((9, 3))})


@pytest.mark.parametrize(
    ("inputs", "complaint"),
    [
        ({}, "no inputs"),
        ({"x": np.array(1)}, "'x' has no rows"),
        ({"x": np.zeros((0, 3))}, "'x' has no rows"),
        ({"x": np.zeros((2, 3)), "y": np.zeros(3)}, "'y' has 3 rows and input 'x' has 2"),
    ],
)
def test_inputs_without_a_common_first_axis_are_refused(inputs: Tensors, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        count_rows(inputs)


@pytest.mark.parametrize("array", [np.zeros(()), np.zeros((2, 5))])
def test_outputs_with_other_rows_than_the_batch_are_the_engines_fault(array: np.ndarray[tuple[int, ...]]) -> None:
    with pytest.raises(EngineFailed, match="for a batch of 3 rows"):
        list(split({"y": array}, [1, 2]))
