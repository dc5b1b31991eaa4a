from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, PreTokenizer, Split
from tokenizers.processors import BertProcessing

from shoal.errors import PayloadTooLarge
from shoal.preproc import Step, make_step
from shoal.preproc.long_text import MAX_TEXT, SHORT
from shoal.types import StepSpec

SPECIAL = ("[UNK]", "[CLS]", "[SEP]", "[MASK]")
LIMIT = 8  # tokens, [CLS] and [SEP] among them
PIECES = ("fish", "a", "ab", "##b", "##c", "c", "'", "!", "[", "]", "e", "一", "sep", *SPECIAL)
PARTS = st.sampled_from(
    ["fish", " ", "\t\n", "ab", "abbc", "'", "!", "[SEP]", "[SE", "[MASK]", "é", "\u0301", "\u0327", "一", "\0", "ﷺ"]
)


def bert(*, split: PreTokenizer | None = None) -> Tokenizer:
    tokenizer = Tokenizer(WordPiece({piece: number for number, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer()
    tokenizer.pre_tokenizer = split or BertPreTokenizer()
    tokenizer.post_processor = BertProcessing(("[SEP]", PIECES.index("[SEP]")), ("[CLS]", PIECES.index("[CLS]")))
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def step(folder: Path, tokenizer: Tokenizer) -> Step:
    tokenizer.save(str(folder / "tokenizer.json"))
    return make_step(StepSpec("tokenize", {"max_tokens": LIMIT}), folder)


def tokens(tokenize: Step, *rows: str) -> list[list[int]]:
    made = tokenize({"text": np.array([[row.encode()] for row in rows], object)})
    return [ids[mask == 1].tolist() for ids, mask in zip(made["input_ids"], made["attention_mask"], strict=True)]


@pytest.fixture(scope="module")
def tokenize(tmp_path_factory: pytest.TempPathFactory) -> Step:
    return step(tmp_path_factory.mktemp("bert"), bert())


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(PARTS, st.integers(1, 40)), max_size=40), st.integers(0, 300))
def test_a_long_text_has_the_tokens_of_the_whole(tokenize: Step, parts: list[tuple[str, int]], behind: int) -> None:
    text = "".join(part * times for part, times in parts) + "a " * behind
    whole = bert()
    whole.enable_truncation(LIMIT)
    assert tokens(tokenize, text, "fish") == [whole.encode(text).ids, whole.encode("fish").ids]


@pytest.mark.parametrize("words", range(8))
@pytest.mark.parametrize("part", ["[SEP]", "[MASK]", "e\u0301", "abbc", "一", "a!"])
def test_a_word_that_is_cut_where_the_reading_stops_is_read_whole(tokenize: Step, part: str, words: int) -> None:
    """The row is full with the words shortly before the cut, or within the one that is cut."""
    whole = bert()
    whole.enable_truncation(LIMIT)
    for cut in range(len(part) + 1):
        lead = " a" * words + " "
        text = "b" * (SHORT * LIMIT - len(lead) - cut) + lead + part + " fish" * 500
        assert tokens(tokenize, text) == [whole.encode(text).ids]


def test_what_is_behind_the_tokens_of_a_row_is_not_read(tokenize: Step) -> None:
    began = time.process_time()
    assert len(tokens(tokenize, "a " * 4_000_000)[0]) == LIMIT
    assert time.process_time() - began < 1.0  # the whole takes several seconds


def test_a_text_whose_words_do_not_end_is_refused_with_the_limit(tokenize: Step) -> None:
    with pytest.raises(PayloadTooLarge, match=rf"'text' has {MAX_TEXT + 1} characters; at most {MAX_TEXT}") as refused:
        tokens(tokenize, "a" * (MAX_TEXT + 1))
    assert refused.value.param == "text"


def test_a_tokenizer_that_may_look_far_reads_the_whole(tmp_path: Path) -> None:
    """This one splits nothing if the text ends with a mark."""
    far = step(tmp_path, bert(split=Split(Regex(r"(?m) (?!.*!\z)"), "removed")))
    assert len(tokens(far, "a " * 500 + "a")[0]) == LIMIT
    assert len(tokens(far, "a " * 500 + "!")[0]) == 3
    with pytest.raises(PayloadTooLarge, match="characters"):
        tokens(far, "a" * (MAX_TEXT + 1))
