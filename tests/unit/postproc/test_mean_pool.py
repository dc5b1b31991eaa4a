from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shoal.errors import ModelLoadFailed
from shoal.preproc import Step, make_step
from shoal.types import StepSpec, Tensors


def mean_pool(folder: Path, width: int) -> Step:
    (folder / "config.json").write_text(f'{{"hidden_size": {width}, "other": 1}}')
    return make_step(StepSpec("mean_pool"), folder)


def test_padding_has_no_part_in_the_mean(tmp_path: Path) -> None:
    hidden = np.array([[[3, 4], [3, 4], [99, -99]], [[0, 2], [2, 0], [2, 2]]], np.float32)
    mask = np.array([[1, 1, 0], [1, 1, 1]])
    made = mean_pool(tmp_path, 2)({"hidden": hidden, "attention_mask": mask})
    np.testing.assert_allclose(made["embedding"], [[0.6, 0.8], [0.5**0.5, 0.5**0.5]], rtol=1e-6)
    assert made["tokens"].tolist() == [2, 3]
    assert made["embedding"].dtype == np.float32
    assert made["tokens"].dtype == np.int64


def test_what_a_batch_padded_on_top_has_no_part_either(tmp_path: Path) -> None:
    hidden = np.array([[[3, 4], [99, -99], [7, 7]]], np.float32)
    made = mean_pool(tmp_path, 2)({"hidden": hidden, "attention_mask": np.array([[1]])})
    np.testing.assert_allclose(made["embedding"], [[0.6, 0.8]], rtol=1e-6)


def test_a_row_without_tokens_is_a_vector_of_zeros(tmp_path: Path) -> None:
    tensors: Tensors = {"hidden": np.ones((1, 3, 2), np.float32), "attention_mask": np.zeros((1, 3), np.int64)}
    assert mean_pool(tmp_path, 2)(tensors)["embedding"].tolist() == [[0, 0]]


def test_the_width_is_the_models(tmp_path: Path) -> None:
    assert mean_pool(tmp_path, 384).outputs[0].shape == (-1, 384)


def test_a_folder_without_the_width_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match=r"step 'mean_pool': .*config\.json"):
        make_step(StepSpec("mean_pool"), tmp_path)
    with pytest.raises(ModelLoadFailed, match="no folder"):
        make_step(StepSpec("mean_pool"), None)
