from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import EngineFailed, ModelLoadFailed
from shoal.preproc import make_step
from shoal.types import StepSpec, Tensors


def top(scores: list[list[float]], folder: Path | None = None, **options: Any) -> Tensors:
    return make_step(StepSpec("top_k", options), folder)({"probabilities": np.array(scores, np.float32)})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "labels.txt").write_bytes("cod\n \nhåring\n".encode())
    return tmp_path


def test_the_best_come_first_and_of_equal_ones_the_first() -> None:
    made = top([[0.1, 0.5, 0.4, 0.5]], k=3)
    assert made["indices"].tolist() == [[1, 3, 2]]
    np.testing.assert_array_equal(made["scores"], np.array([[0.5, 0.5, 0.4]], np.float32))
    assert made["indices"].dtype == np.int64
    assert made["scores"].dtype == np.float32
    assert made.keys() == {"indices", "scores"}


def test_labels_are_the_lines_of_a_file(folder: Path) -> None:
    made = top([[0.1, 0.2, 0.7], [0.3, 0.6, 0.1]], folder, k=2, labels="labels.txt")
    assert made["labels"].tolist() == [["håring".encode(), b" "], [b" ", b"cod"]]


@given(st.lists(st.floats(width=32), min_size=4, max_size=4))
def test_what_is_no_number_comes_last(scores: list[float]) -> None:
    indices = top([scores], k=4)["indices"][0].tolist()
    assert sorted(indices) == [0, 1, 2, 3]
    ordered = [scores[index] for index in indices]
    numbers = [score for score in ordered if score == score]
    assert ordered[: len(numbers)] == sorted(numbers, reverse=True)


def test_more_than_there_are_is_refused(folder: Path) -> None:
    with pytest.raises(EngineFailed, match="k is 3, and the model has 2 classes"):
        top([[0.1, 0.9]], k=3)
    with pytest.raises(ModelLoadFailed, match=r"k is 4, and labels\.txt has 3 labels"):
        top([[0.1, 0.9]], folder, k=4, labels="labels.txt")


def test_labels_of_another_model_are_refused(folder: Path) -> None:
    with pytest.raises(EngineFailed, match=r"labels\.txt has 3 labels for 2 classes"):
        top([[0.1, 0.9]], folder, k=1, labels="labels.txt")


@pytest.mark.parametrize("content", [None, b"\xff"], ids=["missing", "damaged"])
def test_labels_that_cannot_be_read_are_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "l.txt").write_bytes(content)
    with pytest.raises(ModelLoadFailed, match=r"step 'top_k': cannot read the labels in .*l\.txt"):
        top([[1.0]], tmp_path, k=1, labels="l.txt")
    with pytest.raises(ModelLoadFailed, match="no folder"):
        top([[1.0]], None, k=1, labels="l.txt")
