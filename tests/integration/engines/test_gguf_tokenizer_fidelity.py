"""The table of pre-tokenizers against llama.cpp's own, on one vocabulary under each of the names in the table."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from models import smollm2_gguf

from shoal.engines.gguf_tokenizer import FAMILIES, SavedTokenizer, adds_bos, build_tokenizer, end_ids
from shoal.engines.llama_abi import complaints, llama
from shoal.engines.llama_tokenizer import LlamaTokenizer
from shoal.engines.model_folder import ModelCard

CORPUS = (
    "",
    " ",
    "Hello, world!",
    "  leading, trailing and    inner spaces  ",
    "tabs\tand\nnew\n\nlines\r\n\r\n  \n",
    "it's we've I'LL they'D 'tis",
    "zq zqzq  zq1 a zq",
    "1 12 123 1234567890 3.14159 1,000,000 ٣٤٥ Ⅻ ½ x²",
    "def f(x: int) -> int:\n    return x ** 2  # ¿square?\n",
    "Ünïcödé, naïve café, Straße, ΑΒΓ абв",
    "日本語のテキスト 中文字符 한국어 ไทย العربية עברית",
    "🙂👩‍👩‍👧‍👦🏳️‍🌈 e\u0301 \u200b\ufeff\u00a0\u3000",
    "<|im_start|>system\nYou are <b>bold</b>.<|im_end|>\n<|im_start|>",
    "<|im_start <|im_end||> <|endoftext|><|endoftext|>",
    "a\x00b\x7f\x80",
    "!!!???...---===+++ ''' \"\"\" ``` ((([[[{{{",
)

# Planes 0 and 1 up to what every Unicode table of the last decade knows; both sides then agree on what a letter is.
LETTERS = st.characters(max_codepoint=0x2FFF, exclude_categories=["Cs", "Cn"])
PIECES = st.sampled_from(
    [" ", "\n", "  ", "'s", "12", "3456", "zq", "a", "Z", "é", "<|im_end|>", "<|", "|>", "\r\n", "!", "٣", "中"]
)
TEXTS = st.lists(LETTERS | PIECES, max_size=40).map("".join)


@dataclass(frozen=True)
class Pair:
    ours: SavedTokenizer
    theirs: LlamaTokenizer


@pytest.fixture(scope="module")
def fields() -> dict[str, gguf.ReaderField]:
    return dict(gguf.GGUFReader(smollm2_gguf()).fields)


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def pair(
    request: pytest.FixtureRequest, fields: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """SmolLM2's vocabulary as if it were of another family, read by both."""
    folder = tmp_path_factory.mktemp("vocabulary")
    metadata = {key: field.contents() for key, field in fields.items()} | {"tokenizer.ggml.pre": request.param}
    metadata.pop("tokenizer.ggml.add_bos_token")  # so that the family's default shows
    tell_apart(metadata)
    model = load_vocabulary(write_vocabulary(folder / "vocabulary.gguf", fields, metadata))
    build_tokenizer(metadata).save(str(folder / "tokenizer.json"))
    card = ModelCard(
        architecture="llama", context_length=1, eos_ids=end_ids(metadata), bos_id=1, add_bos=adds_bos(metadata)
    )
    yield Pair(SavedTokenizer(folder / "tokenizer.json", card), LlamaTokenizer(model))
    llama.llama_model_free(model)


def tell_apart(metadata: dict[str, Any]) -> None:
    """Add what shows how digits are grouped, and words that no merges lead to."""
    digits = "0123456789"
    merges = [f"{a} {b}" for a in digits for b in digits]
    merges += [f"{pair.replace(' ', '')} {c}" for pair in merges for c in digits]
    tokens = [merge.replace(" ", "") for merge in merges] + ["zq", "Ġzq"]
    metadata["tokenizer.ggml.merges"] = metadata["tokenizer.ggml.merges"] + merges
    metadata["tokenizer.ggml.tokens"] = metadata["tokenizer.ggml.tokens"] + tokens
    metadata["tokenizer.ggml.token_type"] = metadata["tokenizer.ggml.token_type"] + [1] * len(tokens)


def write_vocabulary(path: Path, fields: dict[str, Any], metadata: dict[str, Any]) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    for key, field in fields.items():
        if key in metadata and not key.startswith("GGUF.") and key != "general.architecture":
            kind = field.types[0]
            element = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, metadata[key], kind, element)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def load_vocabulary(path: Path) -> int:
    params = llama.llama_model_default_params()
    params.vocab_only = True
    model: int | None = llama.llama_model_load_from_file(os.fsencode(path), params)
    assert model is not None, complaints()
    return model


@pytest.mark.parametrize("text", CORPUS)
@pytest.mark.parametrize("special", [False, True])
def test_the_corpus_gives_llama_cpps_tokens(pair: Pair, text: str, special: bool) -> None:
    assert pair.ours.encode(text, special=special) == pair.theirs.encode(text, special=special)


@settings(max_examples=150, deadline=None)
@given(text=TEXTS, special=st.booleans())
@example(text="a \n\n b'S 1234", special=False)
@example(text='"\x16{', special=False)  # SmolLM2 has no token for U+0016, but one for the two characters around it
@example(text=" \x04!\U00040000", special=False)
def test_any_text_gives_llama_cpps_tokens(pair: Pair, text: str, special: bool) -> None:
    assert pair.ours.encode(text, special=special) == pair.theirs.encode(text, special=special)


def test_every_token_has_llama_cpps_bytes(pair: Pair) -> None:
    tokens = range(pair.theirs.vocab_size)
    assert pair.ours.vocab_size == pair.theirs.vocab_size
    assert [pair.ours.token_bytes(token) for token in tokens] == [pair.theirs.token_bytes(token) for token in tokens]


def test_the_special_tokens_are_llama_cpps(pair: Pair) -> None:
    assert (pair.ours.bos_token, pair.ours.eos_token) == (pair.theirs.bos_token, pair.theirs.eos_token)
    assert pair.ours.eos_ids <= pair.theirs.eos_ids
