"""The tokenizer inside a GGUF file, as one of the ``tokenizers`` library, and how it is used once it is saved.

Only byte-level BPE with a pre-tokenizer of the table below: what is not known to be split exactly as the model was
trained on is refused. ``test_gguf_tokenizer_fidelity.py`` holds the table against llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from shoal.engines.model_folder import ModelCard
from shoal.errors import InvalidRequest, ModelLoadFailed
from shoal.types import TokenId

CONTROL, USER_DEFINED = 3, 4  # of GGUF's token types, those that are matched in text before anything else

#: Control tokens that end an answer in one family of models or another, whether or not the file says so.
END_OF_TURN = frozenset(
    ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>", "<end_of_turn>")
)

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


@dataclass(frozen=True)
class _Family:
    """How the models with one ``tokenizer.ggml.pre`` cut text before they merge bytes."""

    pre_tokenizer: pre_tokenizers.PreTokenizer
    ignore_merges: bool = False  # a piece that is in the vocabulary is one token, mergeable or not
    add_bos: bool = False  # where the file does not say


FAMILIES: dict[str, _Family] = {
    "gpt-2": _Family(_GPT2),
    "smollm": _Family(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _GPT2])),
    "qwen2": _Family(_split(rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}")),
    "llama-bpe": _Family(
        _split(rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"),
        ignore_merges=True,
        add_bos=True,
    ),
}


def family_of(metadata: Mapping[str, Any]) -> _Family | None:
    """The table's entry for a GGUF's metadata; None for a kind of tokenizer that is not in it."""
    if metadata.get("tokenizer.ggml.model") != "gpt2":
        return None
    return FAMILIES.get(metadata.get("tokenizer.ggml.pre", ""))


def build_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a GGUF's metadata.

    Raises :class:`~shoal.errors.ModelLoadFailed` for a kind that is not in the table, and for a broken vocabulary.
    """
    family = family_of(metadata)
    if family is None:
        kind = f"{metadata.get('tokenizer.ggml.model')}/{metadata.get('tokenizer.ggml.pre')}"
        raise ModelLoadFailed(f"the tokenizer {kind} is not among gpt2/{{{', '.join(FAMILIES)}}}")
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    types: list[int] = metadata["tokenizer.ggml.token_type"]
    try:
        model = models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=[_pair(merge) for merge in metadata["tokenizer.ggml.merges"]],
            ignore_merges=family.ignore_merges,
        )
    except Exception as exc:  # the library raises nothing narrower
        raise ModelLoadFailed(f"the vocabulary contradicts itself: {exc}") from exc
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = _apart_at_missing_bytes(family.pre_tokenizer, tokens)
    tokenizer.decoder = decoders.ByteLevel()
    typed = list(zip(tokens, types, strict=True))
    # ``special`` is what ``encode_special_tokens`` turns off: control tokens, and those alone.
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t, kind in typed if kind == CONTROL])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t, kind in typed if kind == USER_DEFINED])
    return tokenizer


def _apart_at_missing_bytes(
    pre_tokenizer: pre_tokenizers.PreTokenizer, tokens: Sequence[str]
) -> pre_tokenizers.PreTokenizer:
    """Leave out bytes that the vocabulary does not have, and keep what stands beside them apart.

    SmolLM2 lacks some control characters. The library would leave them out too, but then merge their neighbours,
    which llama.cpp does not.
    """
    missing = sorted(BYTE_OF.keys() - set(tokens))
    if not missing:
        return pre_tokenizer
    pattern = Regex("[" + "".join(rf"\x{{{ord(char):x}}}" for char in missing) + "]")
    return pre_tokenizers.Sequence([pre_tokenizer, pre_tokenizers.Split(pattern, behavior="removed")])


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right


def end_ids(metadata: Mapping[str, Any]) -> tuple[TokenId, ...]:
    """The tokens that end an answer, the model's own end-of-sequence token first."""
    named = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    known = [
        index
        for index, (token, kind) in enumerate(
            zip(metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"], strict=True)
        )
        if kind == CONTROL and token in END_OF_TURN
    ]
    return tuple(dict.fromkeys([int(index) for index in named if index is not None] + known))


def adds_bos(metadata: Mapping[str, Any]) -> bool:
    family = family_of(metadata)
    default = family is not None and family.add_bos
    return bool(metadata.get("tokenizer.ggml.add_bos_token", default)) and "tokenizer.ggml.bos_token_id" in metadata


class SavedTokenizer:
    """A :class:`shoal.engines.base.Tokenizer` over a saved ``tokenizer.json``, for any number of threads."""

    def __init__(self, path: Path, card: ModelCard) -> None:
        # Whether control tokens are read is a setting of the whole tokenizer, so there are two of them.
        self._plain = _load(path)
        self._plain.encode_special_tokens = True
        self._special = _load(path)
        self._added = self._special.get_added_tokens_decoder()
        self._bos = [card.bos_id] if card.add_bos and card.bos_id is not None else []
        self.vocab_size = self._special.get_vocab_size()
        self.eos_ids = frozenset(card.eos_ids)
        self.chat_template = card.chat_template
        self.bos_token = self._text(card.bos_id)
        self.eos_token = self._text(card.eos_ids[0] if card.eos_ids else None)

    def encode(self, text: str, *, special: bool) -> list[TokenId]:
        """Raises :class:`~shoal.errors.InvalidRequest` for text that is not Unicode (half of a surrogate pair)."""
        tokenizer = self._special if special else self._plain
        try:
            ids = tokenizer.encode(text, add_special_tokens=False).ids
        except TypeError as exc:
            raise InvalidRequest("the text holds half of a surrogate pair, which no encoding can carry") from exc
        return ids if not special or ids[:1] == self._bos else self._bos + ids

    def token_bytes(self, token: TokenId) -> bytes:
        if (added := self._added.get(token)) is not None:
            return b"" if added.special else added.content.encode()
        text = self._special.id_to_token(token)
        return b"" if text is None else bytes(BYTE_OF[char] for char in text)

    def _text(self, token: TokenId | None) -> str:
        return (self._special.id_to_token(token) or "") if token is not None else ""


def _load(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as exc:  # the library raises nothing narrower
        raise ModelLoadFailed(f"cannot read the tokenizer {path}: {exc}") from exc


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's names of the 256 bytes, reversed: printable ones name themselves, the rest follow from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in printable]
    names = {chr(byte): byte for byte in printable}
    return names | {chr(0x100 + index): byte for index, byte in enumerate(rest)}


BYTE_OF = _byte_alphabet()
