from __future__ import annotations

import msgspec
import numpy as np
import pytest

from shoal.errors import InvalidRequest
from shoal.model_registry import ModelSpec, check_inputs
from shoal.types import ModelKind, ModelName, Tensors, TensorSpec

SPECS = (TensorSpec("x", "FP32", (-1, 3)), TensorSpec("t", "BYTES", (-1, 1)))


def fitting() -> Tensors:
    return {"x": np.zeros((2, 3), np.float32), "t": np.array([[b"a"], [b"b"]], dtype=object)}


def test_what_fits_passes() -> None:
    check_inputs(fitting(), SPECS)


@pytest.mark.parametrize(
    ("change", "param", "complaint"),
    [
        ({"x": np.zeros((2, 3))}, "x", "must be FP32, not FP64"),
        ({"x": np.zeros((2, 3), np.complex64)}, "x", "must be FP32, not complex64"),
        ({"x": np.zeros((2, 4), np.float32)}, "x", r"must have shape \[-1, 3\], not \[2, 4\]"),
        ({"x": np.zeros(3, np.float32)}, "x", r"must have shape \[-1, 3\], not \[3\]"),
        ({"t": np.zeros((2, 1), np.float32)}, "t", "must be BYTES, not FP32"),
        ({"z": np.zeros(1)}, "z", "there is no input 'z'; the model takes 'x', 't'"),
    ],
)
def test_what_does_not_fit_is_named(change: Tensors, param: str, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint) as caught:
        check_inputs(fitting() | change, SPECS)
    assert caught.value.param == param


def test_a_missing_input_is_named() -> None:
    with pytest.raises(InvalidRequest, match=r"input 't' is missing: it is BYTES of shape \[-1, 1\]"):
        check_inputs({"x": fitting()["x"]}, SPECS)


BATCHABLE = ModelSpec(name=ModelName("m"), kind=ModelKind.TENSOR, inputs=SPECS, batchable=True)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        (fitting() | {"t": np.array([[b"a"]], dtype=object)}, "input 't' must have 2 rows, as 'x' has, not 1"),
        ({"x": fitting()["x"]}, "input 't' is missing"),
    ],
)
def test_a_batchable_model_wants_as_many_rows_of_each_input(inputs: Tensors, says: str) -> None:
    BATCHABLE.check(fitting())
    with pytest.raises(InvalidRequest, match=says) as caught:
        BATCHABLE.check(inputs)
    assert caught.value.param == "t"


def test_a_model_that_does_not_say_what_it_takes_wants_equal_rows_if_it_is_batchable() -> None:
    anything = {"a": np.zeros((2, 3)), "b": np.zeros(3)}
    msgspec.structs.replace(BATCHABLE, inputs=(), batchable=None).check(anything)
    with pytest.raises(InvalidRequest, match="input 'b' must have 2 rows, as 'a' has, not 3"):
        msgspec.structs.replace(BATCHABLE, inputs=()).check(anything)
    with pytest.raises(InvalidRequest, match="input 'a' must have rows along its first axis"):
        msgspec.structs.replace(BATCHABLE, inputs=()).check({"a": np.array(1.0)})
