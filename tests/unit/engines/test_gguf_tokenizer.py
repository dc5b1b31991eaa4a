"""A vocabulary of the 256 bytes, a few merges and control tokens, as a GGUF describes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.engines.gguf_tokenizer import BYTE_OF, FAMILIES, SavedTokenizer, adds_bos, build_tokenizer, end_ids
from shoal.engines.model_folder import ModelCard
from shoal.errors import InvalidRequest, ModelLoadFailed

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
SPECIAL = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL), ("<|im_end|>", CONTROL), ("<tool>", USER_DEFINED)]
BOS, EOS, IM_END, TOOL = 1, 2, 3, 4
MERGES = ["h i", "Ġ hi", "Ã ©"]


def metadata(**changes: Any) -> dict[str, Any]:
    tokens = [text for text, _ in SPECIAL] + list(BYTE_OF) + [merge.replace(" ", "") for merge in MERGES]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [kind for _, kind in SPECIAL] + [NORMAL] * (len(tokens) - len(SPECIAL)),
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": BOS,
        "tokenizer.ggml.eos_token_id": EOS,
    } | {f"tokenizer.ggml.{name}": value for name, value in changes.items()}


def saved(folder: Path, *, add_bos: bool = False) -> SavedTokenizer:
    build_tokenizer(metadata()).save(str(folder / "tokenizer.json"))
    card = ModelCard(architecture="llama", context_length=64, eos_ids=(EOS,), bos_id=BOS, add_bos=add_bos)
    return SavedTokenizer(folder / "tokenizer.json", card)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> SavedTokenizer:
    return saved(tmp_path_factory.mktemp("tokenizer"))


def spelled(tokenizer: SavedTokenizer, tokens: list[int]) -> list[bytes]:
    return [tokenizer.token_bytes(token) for token in tokens]


def test_text_is_split_and_merged(tokenizer: SavedTokenizer) -> None:
    assert spelled(tokenizer, tokenizer.encode("hi hi é12", special=False)) == [
        b"hi", b" hi", b" ", "é".encode(), b"1", b"2"
    ]  # fmt: skip


def test_templates_mean_control_tokens(tokenizer: SavedTokenizer) -> None:
    assert tokenizer.encode("<s>hi<|im_end|>", special=True) == [BOS, *tokenizer.encode("hi", special=False), IM_END]


@given(text=st.lists(st.text() | st.sampled_from([text for text, _ in SPECIAL])).map("".join))
def test_the_text_of_users_has_no_control_tokens_and_comes_back(tokenizer: SavedTokenizer, text: str) -> None:
    tokens = tokenizer.encode(text, special=False)
    assert {BOS, EOS, IM_END}.isdisjoint(tokens)
    assert b"".join(spelled(tokenizer, tokens)) == text.encode()


def test_a_control_token_has_no_bytes(tokenizer: SavedTokenizer) -> None:
    assert spelled(tokenizer, [BOS, EOS, IM_END]) == [b"", b"", b""]


def test_a_token_out_of_the_vocabulary_has_no_bytes(tokenizer: SavedTokenizer) -> None:
    assert tokenizer.token_bytes(tokenizer.vocab_size) == b""


def test_a_user_defined_token_is_text_that_is_one_token(tokenizer: SavedTokenizer) -> None:
    assert tokenizer.encode("<tool>", special=False) == [TOOL]
    assert tokenizer.token_bytes(TOOL) == b"<tool>"


def test_the_texts_of_the_first_and_last_token_are_known(tokenizer: SavedTokenizer) -> None:
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.eos_ids) == ("<s>", "</s>", frozenset({EOS}))


def test_a_model_that_begins_every_prompt_does_it_once(tmp_path: Path) -> None:
    tokenizer = saved(tmp_path, add_bos=True)
    hi = tokenizer.encode("hi", special=False)
    assert tokenizer.encode("", special=True) == [BOS]
    assert tokenizer.encode("hi", special=True) == tokenizer.encode("<s>hi", special=True) == [BOS, *hi]


def test_half_a_surrogate_pair_is_refused(tokenizer: SavedTokenizer) -> None:
    with pytest.raises(InvalidRequest, match="surrogate"):
        tokenizer.encode("a\ud800b", special=False)


@pytest.mark.parametrize("changes", [{"model": "llama"}, {"pre": "tekken"}, {"pre": "default"}])
def test_a_tokenizer_of_an_unknown_kind_is_refused(changes: dict[str, str]) -> None:
    with pytest.raises(ModelLoadFailed, match="is not among gpt2/"):
        build_tokenizer(metadata(**changes))


def test_a_merge_of_what_is_no_token_is_refused() -> None:
    with pytest.raises(ModelLoadFailed, match="contradicts itself"):
        build_tokenizer(metadata(merges=["x y"]))


def test_a_damaged_file_does_not_load(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(ModelLoadFailed, match=r"tokenizer\.json"):
        SavedTokenizer(path, ModelCard(architecture="llama", context_length=1, eos_ids=()))


def test_answers_end_with_the_models_own_token_and_with_those_known_to_end_a_turn() -> None:
    assert end_ids(metadata()) == (EOS, IM_END)
    assert end_ids(metadata(eos_token_id=IM_END, eot_token_id=EOS)) == (IM_END, EOS)


def test_whether_prompts_begin_with_a_token_is_what_the_file_says_or_the_family_does() -> None:
    assert not adds_bos(metadata())
    assert adds_bos(metadata(add_bos_token=True))
    assert adds_bos(metadata(pre="llama-bpe"))
    assert not adds_bos(metadata(pre="llama-bpe", add_bos_token=False))


def test_the_byte_alphabet_names_every_byte_once() -> None:
    assert sorted(BYTE_OF.values()) == list(range(256))
    assert BYTE_OF["Ġ"] == ord(" ")
    assert FAMILIES.keys() == {"gpt-2", "smollm", "qwen2", "llama-bpe"}
