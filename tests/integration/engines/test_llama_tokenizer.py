"""llama.cpp's tokenizers behind our interface: SmolLM2's vocabulary, and a SentencePiece one made here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gguf
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from models import smollm2_gguf

from shoal.engines.llama_abi import complaints, llama
from shoal.engines.llama_tokenizer import LlamaTokenizer
from shoal.errors import EngineFailed, InvalidRequest
from shoal.types import TokenId

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>", "<file_sep>"]

# SmolLM2 has no token for six control characters, nor for the lead bytes of planes that Unicode has not assigned.
LETTERS = st.characters(codec="utf-8", max_codepoint=0x2FFFF, exclude_characters="\x04\x06\x13\x14\x16\x1d")


@contextmanager
def tokenizer_of(path: Path) -> Iterator[LlamaTokenizer]:
    params = llama.llama_model_default_params()
    params.vocab_only = True
    model: int | None = llama.llama_model_load_from_file(os.fsencode(path), params)
    assert model is not None, complaints()
    tokenizer = LlamaTokenizer(model)
    yield tokenizer
    tokenizer.close()
    llama.llama_model_free(model)


@pytest.fixture(scope="module")
def smollm2() -> Iterator[LlamaTokenizer]:
    with tokenizer_of(smollm2_gguf()) as tokenizer:
        yield tokenizer


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaTokenizer]:
    path = tmp_path_factory.mktemp("vocabulary") / "sentencepiece.gguf"
    special, normal = ["<unk>", "<s>", "</s>"], ["<s", "</s", "<", "</", "s", ">", "\u2581", "a"]
    spelled = [f"<0x{byte:02X}>" for byte in range(256)]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    kinds += [gguf.TokenType.NORMAL] * len(normal) + [gguf.TokenType.BYTE] * len(spelled)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(special + normal + spelled)
    writer.add_token_types(kinds)
    writer.add_token_scores([-float(rank) for rank in range(len(kinds))])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with tokenizer_of(path) as tokenizer:
        yield tokenizer


def text_of(tokenizer: LlamaTokenizer, tokens: list[TokenId]) -> bytes:
    return b"".join(map(tokenizer.token_bytes, tokens))


@given(text=st.text(LETTERS, max_size=200))
@settings(max_examples=200, deadline=None)
def test_text_survives_the_way_through_tokens(smollm2: LlamaTokenizer, text: str) -> None:
    assert text_of(smollm2, smollm2.encode(text, special=False)) == text.encode()


@given(parts=st.lists(st.sampled_from([*SPECIAL, "<|", "|>", "<"]) | st.text(LETTERS, max_size=5), max_size=10))
@settings(max_examples=200, deadline=None)
def test_user_text_never_becomes_control_tokens(smollm2: LlamaTokenizer, parts: list[str]) -> None:
    tokens = smollm2.encode("".join(parts), special=False)

    assert all(smollm2.token_bytes(token) for token in tokens)
    assert smollm2.eos_ids.isdisjoint(tokens)


@given(text=st.text("<s>/ a", max_size=20))
@example("a<s>a</s>")
@settings(max_examples=200, deadline=None)
def test_letters_that_merge_into_a_control_token_are_spelled(sentencepiece: LlamaTokenizer, text: str) -> None:
    tokens = sentencepiece.encode(text, special=False)

    assert {1, 2}.isdisjoint(tokens)
    assert text_of(sentencepiece, tokens).removeprefix(b" ") == text.encode()  # such models put a space in front


def test_text_of_templates_may_contain_control_tokens(smollm2: LlamaTokenizer) -> None:
    tokens = smollm2.encode("<|im_start|>user\nHi<|im_end|>", special=True)

    assert (tokens[0], tokens[-1]) == (1, 2)
    assert text_of(smollm2, tokens) == b"user\nHi"


@pytest.mark.parametrize("text", ["a", "<s>a"])
def test_a_model_that_wants_a_first_token_gets_one_and_no_second(sentencepiece: LlamaTokenizer, text: str) -> None:
    tokens = sentencepiece.encode(text, special=True)

    assert tokens.count(1) == 1
    assert tokens[0] == 1
    assert 1 not in sentencepiece.encode(text, special=False)


def test_a_model_that_wants_no_first_token_gets_none(smollm2: LlamaTokenizer) -> None:
    assert smollm2.encode("Hi", special=True) == smollm2.encode("Hi", special=False) == [26843]


def test_the_vocabulary_describes_itself(smollm2: LlamaTokenizer, sentencepiece: LlamaTokenizer) -> None:
    assert smollm2.vocab_size == 49_152
    assert smollm2.eos_ids == {0, 2, 4}
    assert (smollm2.bos_token, smollm2.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert smollm2.chat_template is not None
    assert "<|im_start|>" in smollm2.chat_template
    assert sentencepiece.chat_template is None


@pytest.mark.parametrize("token", [-1, 49_152, 2**40])
def test_a_token_outside_the_vocabulary_is_refused(smollm2: LlamaTokenizer, token: TokenId) -> None:
    with pytest.raises(InvalidRequest, match=f"token {token} is not in the vocabulary of 49152"):
        smollm2.token_bytes(token)


def test_half_a_surrogate_is_refused(smollm2: LlamaTokenizer) -> None:
    with pytest.raises(InvalidRequest, match="not valid Unicode at character 2"):
        smollm2.encode("ab\ud800", special=False)


@pytest.mark.parametrize("text", ["", "a\0b", "\0", " " * 100_000, "1" * 100_000])
def test_odd_text_is_read(smollm2: LlamaTokenizer, text: str) -> None:
    assert text_of(smollm2, smollm2.encode(text, special=False)) == text.encode()


def test_a_closed_vocabulary_still_spells_but_no_longer_reads() -> None:
    with tokenizer_of(smollm2_gguf()) as tokenizer:
        pass
    assert tokenizer.token_bytes(26843) == b"Hi"
    with pytest.raises(EngineFailed, match="the model is closed"):
        tokenizer.encode("a", special=False)
