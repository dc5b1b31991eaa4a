"""The vocabulary inside a GGUF, read with llama.cpp's own tokenizers."""

from __future__ import annotations

import ctypes

from shoal.engines.llama_abi import llama
from shoal.errors import EngineFailed, InvalidRequest
from shoal.types import TokenId

NO_TOKEN = -1  # LLAMA_TOKEN_NULL


class LlamaTokenizer:
    """Implements :class:`~shoal.engines.base.Tokenizer` for any GGUF. Only reads the vocabulary, so any thread may
    use it, also while the engine runs."""

    def __init__(self, model: int) -> None:
        """``model``: the address of a ``llama_model``, which must outlive this object or see it closed before."""
        vocab = llama.llama_model_get_vocab(model)
        self._vocab: int | None = vocab
        self.vocab_size: int = llama.llama_vocab_n_tokens(vocab)
        ids = range(self.vocab_size)
        self.eos_ids = frozenset(token for token in ids if llama.llama_vocab_is_eog(vocab, token))
        template: bytes | None = llama.llama_model_chat_template(model, None)
        self.chat_template = None if template is None else template.decode(errors="replace")
        bos: TokenId = llama.llama_vocab_bos(vocab)
        self.bos_token = _text(vocab, bos).decode(errors="replace")
        self.eos_token = _text(vocab, llama.llama_vocab_eos(vocab)).decode(errors="replace")
        self._first = [bos] if bos != NO_TOKEN and llama.llama_vocab_get_add_bos(vocab) else []
        self._control = {token: _text(vocab, token) for token in ids if llama.llama_vocab_is_control(vocab, token)}
        # A table: one look-up a token, and no native call with an id that somebody else chose.
        self._bytes = tuple(_piece(vocab, token) for token in ids)
        self._spelling = {piece[0]: token for token, piece in enumerate(self._bytes) if len(piece) == 1}

    def encode(self, text: str, *, special: bool) -> list[TokenId]:
        """Raises :class:`~shoal.errors.InvalidRequest` for text that is no Unicode."""
        try:
            tokens = self._tokenize(text.encode(), special)
        except UnicodeEncodeError as exc:
            raise InvalidRequest(f"the text is not valid Unicode at character {exc.start}") from exc
        if not special:
            return self._spell_control(tokens)
        return tokens if tokens[: len(self._first)] == self._first else self._first + tokens

    def token_bytes(self, token: TokenId) -> bytes:
        """Raises :class:`~shoal.errors.InvalidRequest` for a token that is not in the vocabulary."""
        if not 0 <= token < self.vocab_size:
            raise InvalidRequest(f"token {token} is not in the vocabulary of {self.vocab_size} tokens")
        return self._bytes[token]

    def close(self) -> None:
        """The model is about to be freed; encoding fails from now on."""
        self._vocab = None

    def _tokenize(self, text: bytes, special: bool) -> list[TokenId]:
        if self._vocab is None:
            raise EngineFailed("the model is closed")
        # No token is shorter than a byte; one more for the space that some vocabularies put in front.
        room = len(text) + 1
        while True:
            tokens = (ctypes.c_int32 * room)()
            count = llama.llama_tokenize(self._vocab, text, len(text), tokens, room, False, special)
            if count >= 0:
                return tokens[:count]
            room = -count

    def _spell_control(self, tokens: list[TokenId]) -> list[TokenId]:
        """Byte by byte what came out as control tokens: SentencePiece vocabularies merge the letters of a user's
        ``<s>`` into the real one, whatever llama.cpp is told of special tokens."""
        if self._control.keys().isdisjoint(tokens):
            return tokens
        spelled: list[TokenId] = []
        for token in tokens:
            spelled += self._spell(self._control[token]) if token in self._control else [token]
        return spelled

    def _spell(self, text: bytes) -> list[TokenId]:
        try:
            return [self._spelling[byte] for byte in text]
        except KeyError as exc:
            raise InvalidRequest(f"this model can read {text!r} only as a control token") from exc


def _text(vocab: int, token: TokenId) -> bytes:
    text: bytes | None = llama.llama_vocab_get_text(vocab, token) if token != NO_TOKEN else None
    return text or b""


def _piece(vocab: int, token: TokenId) -> bytes:
    room = 64
    while True:
        buffer = ctypes.create_string_buffer(room)
        count: int = llama.llama_token_to_piece(vocab, token, buffer, room, 0, False)
        if count >= 0:
            return buffer.raw[:count]
        room = -count
