from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.batcher.padding import Padding
from shoal.batcher.stacking import stacking_key
from shoal.types import Tensors, TensorSpec

INPUTS = (TensorSpec("ids", "INT64", (-1, -1)), TensorSpec("mask", "INT64", (-1, -1)))
OUTPUTS = (TensorSpec("states", "FP32", (-1, -1, 8)), TensorSpec("score", "FP32", (-1, 1)))
PADDING = Padding((16, 8), inputs=INPUTS, outputs=OUTPUTS)


def tokens(length: int, rows: int = 1) -> Tensors:
    return {"ids": np.full((rows, length), 7), "mask": np.ones((rows, length), np.int64)}


def states(length: int, rows: int = 1) -> Tensors:
    return {"states": np.ones((rows, length, 8), np.float32), "score": np.ones((rows, 1), np.float32)}


def test_a_free_dimension_is_filled_with_zeros_up_to_the_next_bucket() -> None:
    fitted = PADDING.fit(tokens(5))
    assert fitted.inputs["ids"].tolist() == [[7] * 5 + [0] * 3]
    assert fitted.inputs["mask"].tolist() == [[1] * 5 + [0] * 3]
    assert fitted.inputs["mask"].dtype == np.int64
    assert PADDING.fit(tokens(9)).inputs["ids"].shape == (1, 16)


def test_lengths_of_one_bucket_may_share_a_run_and_others_may_not() -> None:
    keys = [stacking_key(PADDING.fit(tokens(length)).inputs) for length in (3, 8, 9, 17)]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_only_free_output_dimensions_as_long_as_the_bucket_are_cut_back() -> None:
    fitted = PADDING.fit(tokens(5))
    cut = PADDING.cut(states(8), fitted.lengths)
    assert cut["states"].shape == (1, 5, 8)  # the last 8 is fixed
    assert cut["score"].shape == (1, 1)


@pytest.mark.parametrize("length", [8, 16, 17])
def test_what_needs_no_padding_is_not_copied(length: int) -> None:
    inputs = tokens(length)
    fitted = PADDING.fit(inputs)
    assert fitted.inputs is inputs
    assert PADDING.cut(states(length), fitted.lengths)["states"].shape == (1, length, 8)


def test_two_lengths_of_one_bucket_in_a_request_are_left_alone() -> None:
    inputs = {"ids": np.ones((1, 5), np.int64), "mask": np.ones((1, 8), np.int64)}
    assert PADDING.fit(inputs).inputs is inputs


def test_bytes_are_filled_with_empty_ones() -> None:
    spec = TensorSpec("text", "BYTES", (-1, -1))
    padding = Padding((4,), inputs=(spec,), outputs=(spec,))
    fitted = padding.fit({"text": np.array([[b"a", b"b", b"c"]], dtype=object)})
    assert fitted.inputs["text"].tolist() == [[b"a", b"b", b"c", b""]]


@pytest.mark.parametrize(
    "padding",
    [Padding((), inputs=INPUTS, outputs=OUTPUTS), Padding((8,), inputs=INPUTS), Padding((8,), outputs=OUTPUTS)],
    ids=["no buckets", "unknown outputs", "unknown inputs"],
)
def test_it_is_off_unless_asked_for_and_the_model_is_known(padding: Padding) -> None:
    inputs = tokens(5)
    assert padding.fit(inputs).inputs is inputs


@given(st.integers(0, 20), st.integers(1, 3))
def test_what_is_put_in_comes_out(length: int, rows: int) -> None:
    spec = TensorSpec("x", "FP32", (-1, -1))
    padding = Padding((4, 16), inputs=(spec,), outputs=(spec,))
    x = np.random.default_rng(0).random((rows, length), np.float32)
    fitted = padding.fit({"x": x})
    np.testing.assert_array_equal(padding.cut(fitted.inputs, fitted.lengths)["x"], x)
