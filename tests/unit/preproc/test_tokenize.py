from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from shoal.errors import InvalidRequest, ModelLoadFailed
from shoal.preproc import Step, make_step
from shoal.types import StepSpec, Tensors

WORDS = ("[PAD]", "[UNK]", "one", "fish", "two")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tokenizer of few words, saved with the padding and the truncation of its training."""
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.enable_padding(length=128)
    tokenizer.enable_truncation(2)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 4, "do_lower_case": false}')
    return tmp_path


@pytest.fixture
def tokenize(folder: Path) -> Step:
    return make_step(StepSpec("tokenize"), folder)


def text(*rows: bytes) -> Tensors:
    return {"text": np.array([[row] for row in rows], dtype=object)}


def test_rows_are_padded_to_the_longest_of_the_batch(tokenize: Step) -> None:
    made = tokenize(text(b"one fish two", b"fish"))
    assert made["input_ids"].tolist() == [[2, 3, 4], [3, 0, 0]]
    assert made["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert made["input_ids"].dtype == made["attention_mask"].dtype == np.int64


def test_rows_are_cut_at_the_models_limit_and_not_at_that_of_the_tokenizer_file(tokenize: Step) -> None:
    assert tokenize(text(b"one fish two fish one"))["input_ids"].tolist() == [[2, 3, 4, 3]]


def test_a_limit_that_is_set_needs_no_published_one(folder: Path) -> None:
    (folder / "sentence_bert_config.json").unlink()
    tokenize = make_step(StepSpec("tokenize", {"max_tokens": 1}), folder)
    assert tokenize(text(b"one fish two"))["input_ids"].tolist() == [[2]]


def test_text_that_is_not_utf8_is_refused_with_its_row(tokenize: Step) -> None:
    with pytest.raises(InvalidRequest, match="row 1 of 'text' is not UTF-8"):
        tokenize(text(b"one", b"\xff"))


@pytest.mark.parametrize("name", ["tokenizer.json", "sentence_bert_config.json"])
@pytest.mark.parametrize("content", [None, "{}"], ids=["missing", "damaged"])
def test_a_folder_without_a_readable_tokenizer_is_refused(folder: Path, name: str, content: str | None) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(ModelLoadFailed, match="step 'tokenize': cannot read the tokenizer"):
        make_step(StepSpec("tokenize"), folder)


def test_a_model_without_a_folder_has_no_tokenizer() -> None:
    with pytest.raises(ModelLoadFailed, match="no folder"):
        make_step(StepSpec("tokenize"), None)
