from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shoal.errors import ModelLoadFailed
from shoal.postproc import STEPS, MeanPool


def test_padding_has_no_part_in_the_mean() -> None:
    hidden = np.array([[[3, 4], [3, 4], [99, -99]], [[0, 2], [2, 0], [2, 2]]], np.float32)
    mask = np.array([[1, 1, 0], [1, 1, 1]])
    made = MeanPool(2)({"hidden": hidden, "attention_mask": mask})
    np.testing.assert_allclose(made["embedding"], [[0.6, 0.8], [0.5**0.5, 0.5**0.5]], rtol=1e-6)
    assert made["tokens"].tolist() == [2, 3]
    assert made["embedding"].dtype == np.float32
    assert made["tokens"].dtype == np.int64


def test_a_row_without_tokens_is_a_vector_of_zeros() -> None:
    made = MeanPool(2)({"hidden": np.ones((1, 3, 2), np.float32), "attention_mask": np.zeros((1, 3), np.int64)})
    assert made["embedding"].tolist() == [[0, 0]]


def test_the_width_is_the_models(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"hidden_size": 384, "other": 1}')
    assert STEPS["mean_pool"](tmp_path).outputs[0].shape == (-1, 384)


def test_a_folder_without_the_width_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match=r"config\.json"):
        STEPS["mean_pool"](tmp_path)
