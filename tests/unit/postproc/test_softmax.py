from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shoal.preproc import make_step
from shoal.types import Array, StepSpec

LOGITS = st.floats(-1e4, 1e4, width=32)


def softmax(logits: Array) -> Array:
    return make_step(StepSpec("softmax"), None)({"logits": logits})["probabilities"]


@given(st.lists(st.lists(LOGITS, min_size=3, max_size=3), min_size=1, max_size=5))
def test_rows_are_probabilities_in_the_order_of_their_scores_whoever_else_is_there(rows: list[list[float]]) -> None:
    logits = np.array(rows, np.float32)
    made = softmax(logits)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made.sum(axis=1), 1, rtol=1e-5)
    assert (made.argmax(axis=1) == logits.argmax(axis=1)).all() or (made.max(axis=1) < 1).any()
    for row in range(len(rows)):
        np.testing.assert_array_equal(softmax(logits[row : row + 1])[0], made[row])


def test_known_values() -> None:
    np.testing.assert_allclose(softmax(np.log(np.array([[1, 2, 5]], np.float32))), [[0.125, 0.25, 0.625]], rtol=1e-6)
