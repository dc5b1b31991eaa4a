from __future__ import annotations

from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import EngineFailed
from shoal.preproc import Step, make_step
from shoal.types import StepSpec, Tensors

CHARACTERS = ["", "a", "å", "\u2028", " "]  # one of them ends lines elsewhere


@pytest.fixture(scope="module")
def decode(tmp_path_factory: pytest.TempPathFactory) -> Step:
    folder: Path = tmp_path_factory.mktemp("model")
    (folder / "characters.txt").write_bytes("\n".join(CHARACTERS).encode() + b"\n")
    return make_step(StepSpec("ctc_decode", {"labels": "characters.txt"}), folder)


def places(*rows: list[int], probability: float = 0.5) -> Tensors:
    indices = np.array(rows, np.int64)
    return {"indices": indices, "probabilities": np.full(indices.shape, probability, np.float32)}


def test_repeated_characters_are_one_and_a_blank_keeps_two_apart(decode: Step) -> None:
    made = decode(places([0, 1, 1, 0, 1, 2], [2, 2, 4, 3, 0, 0]))
    assert made["text"].tolist() == [["aaå".encode()], ["å \u2028".encode()]]
    assert made["score"].tolist() == [[0.5], [0.5]]


def test_the_score_is_that_of_the_characters_that_were_kept(decode: Step) -> None:
    made = decode({"indices": np.array([[1, 1, 0, 2]]), "probabilities": np.array([[0.5, 0.1, 0.9, 1.0]], np.float32)})
    assert made["score"].tolist() == [[0.75]]
    assert made["score"].dtype == np.float32


def test_a_line_without_text_is_empty(decode: Step) -> None:
    made = decode(places([0, 0, 0]))
    assert (made["text"].tolist(), made["score"].tolist()) == ([[b""]], [[0.0]])


@given(st.lists(st.integers(0, 4), min_size=1, max_size=20))
def test_it_reads_as_the_definition_says(decode: Step, line: list[int]) -> None:
    expected = "".join(CHARACTERS[index] for index, _ in groupby(line))
    assert decode(places(line))["text"].item().decode() == expected


@pytest.mark.parametrize("index", [5, -1])
def test_a_class_without_a_character_is_named(decode: Step, index: int) -> None:
    with pytest.raises(EngineFailed, match=r"has no character in characters\.txt"):
        decode(places([1, index]))
