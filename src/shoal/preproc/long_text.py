"""The beginning of a long text that gives all the tokens of a row: what is behind it need not be read."""

from __future__ import annotations

from typing import Final

from tokenizers import Encoding, Tokenizer

from shoal.errors import PayloadTooLarge

SHORT: Final = (
    16  # characters for each token that is wanted: most texts are shorter, and no more is read of most others
)
MAX_TEXT: Final = 2**20  # characters that are read for the tokens of one row

#: What splits a text, and what rewrites it first, by looking no further than at the next characters.
_NEAR_SPLITS: Final = ("BertPreTokenizer", "Whitespace", "WhitespaceSplit")
_NEAR_REWRITES: Final = ("NoneType", "BertNormalizer", "Lowercase", "NFC", "NFD", "StripAccents")
#: Words at the end of a beginning that the next characters may change: the one that was cut, and room for a mark that
#: joins or splits it. A special token that was cut is as many words as it has characters, at most.
_OPEN_WORDS: Final = 8


class LongTexts:
    """Encodes with ``tokenizer``, whose rows are cut at ``limit`` tokens on the right."""

    def __init__(self, tokenizer: Tokenizer, limit: int) -> None:
        self._tokenizer = tokenizer
        is_near = (
            type(tokenizer.pre_tokenizer).__name__ in _NEAR_SPLITS
            and type(tokenizer.normalizer).__name__ in _NEAR_REWRITES
        )
        longest = max((len(token.content) for token in tokenizer.get_added_tokens_decoder().values()), default=0)
        self._open_words = _OPEN_WORDS + longest
        #: Characters: what has no more is no long text. Of other tokenizers any text may have to be read to its end.
        self.short = min(MAX_TEXT, SHORT * limit) if is_near else MAX_TEXT

    def encode(self, text: str, name: str) -> Encoding:
        """The tokens are those of the whole text.

        Raises :class:`~shoal.errors.PayloadTooLarge` where ``MAX_TEXT`` characters of a longer one do not tell them.
        """
        size = self.short
        while size < min(len(text), MAX_TEXT):
            if self._is_settled(encoding := self._tokenizer.encode(text[:size])):
                return encoding
            size *= 2
        if len(text) > MAX_TEXT:
            raise PayloadTooLarge(
                f"a row of '{name}' has {len(text)} characters; at most {MAX_TEXT} are read", param=name
            )
        return self._tokenizer.encode(text)

    def _is_settled(self, encoding: Encoding) -> bool:
        """Are all tokens of the row from words that are far enough from the end?"""
        if not encoding.overflowing:
            return False
        return _last_word(encoding.overflowing[-1]) - _last_word(encoding) >= self._open_words


def _last_word(encoding: Encoding) -> int:
    return max((word for word in encoding.word_ids if word is not None), default=-1)
