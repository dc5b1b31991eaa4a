from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import InvalidRequest, ModelLoadFailed
from shoal.preproc import Step, make_step
from shoal.types import Array, StepSpec

PIXELS = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3) * 10


def normalize(array: Array, **options: Any) -> Array:
    return step(**options)({"image": array})["image"]


def step(**options: Any) -> Step:
    return make_step(StepSpec("normalize", options), None)


def test_pixels_become_numbers_between_0_and_1() -> None:
    made = normalize(PIXELS)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, PIXELS / 255, rtol=1e-6)


def test_each_channel_has_its_mean_and_its_deviation() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    made = normalize(PIXELS, mean=mean, std=std)
    np.testing.assert_allclose(made, (PIXELS / 255 - mean) / std, rtol=1e-4, atol=1e-6)


def test_the_channels_can_come_first() -> None:
    made = normalize(PIXELS, layout="NCHW", scale=1.0)
    assert made.flags.c_contiguous
    assert step(layout="NCHW", shape=(-1, 2, 4, 3)).outputs[0].shape == (-1, 3, 2, 4)
    np.testing.assert_array_equal(made, PIXELS.transpose(0, 3, 1, 2))


def test_other_numbers_than_pixels_have_their_own_type_and_shape() -> None:
    table = step(dtype="FP64", shape=(-1, 2), scale=1.0, mean=(1.0, 2.0), std=(2.0, 4.0))
    assert (table.inputs[0].dtype, table.inputs[0].shape) == ("FP64", (-1, 2))
    assert table({"image": np.array([[3.0, 10.0]])})["image"].tolist() == [[1.0, 2.0]]


@given(st.integers(0, 255), st.floats(-2, 2), st.floats(0.1, 4))
def test_the_formula_holds(value: int, mean: float, std: float) -> None:
    made = normalize(np.full((1, 1, 1, 1), value, np.uint8), mean=(mean,), std=(std,))
    assert made.item() == pytest.approx((value / 255 - mean) / std, rel=1e-4, abs=1e-4)


def test_rows_of_different_sizes_are_refused() -> None:
    ragged = np.empty(2, object)
    ragged[:] = [np.zeros((1, 2, 3)), np.zeros((2, 2, 3))]
    with pytest.raises(InvalidRequest, match="the rows of 'image' differ in size"):
        normalize(ragged)


def test_means_that_do_not_suit_the_channels_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="does not suit 2 means"):
        normalize(PIXELS, mean=(0.1, 0.2))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"std": (1.0, 0.0)}, "std must not be 0"),
        ({"mean": (0.1, 0.2), "std": (1.0, 1.0, 1.0)}, "mean has 2 values and std 3"),
        ({"mean": ()}, r"\$\.mean"),
        ({"dtype": "BYTES"}, "dtype 'BYTES'"),
        ({"layout": "NCHW", "shape": (-1, 4)}, "layout NCHW does not suit 2 axes"),
        ({"scale": "much"}, r"\$\.scale"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelLoadFailed, match=f"step 'normalize': .*{reason}"):
        step(**options)
