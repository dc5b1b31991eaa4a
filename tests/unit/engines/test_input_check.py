from __future__ import annotations

import numpy as np
import pytest

from shoal.engines.specs import check_inputs
from shoal.errors import InvalidRequest
from shoal.types import Tensors, TensorSpec

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
    with pytest.raises(InvalidRequest, match="input 't' is missing"):
        check_inputs({"x": fitting()["x"]}, SPECS)
