"""Text to token ids, with a ``tokenizer.json`` as the ``tokenizers`` library reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from tokenizers import Encoding, Tokenizer

from shoal.errors import ModelLoadFailed
from shoal.preproc import base
from shoal.preproc.long_text import LongTexts
from shoal.preproc.text import texts
from shoal.types import Tensors, TensorSpec


class _TextLimits(msgspec.Struct, frozen=True):
    """``sentence_bert_config.json``."""

    max_seq_length: int


class Tokenize:
    """``text`` to ``input_ids`` and ``attention_mask``, padded to the longest row, cut at ``max_tokens``.

    Of a long text no more is read than its tokens need; :class:`~shoal.errors.PayloadTooLarge` where that is too much.
    """

    class Options(base.Options, frozen=True):
        input: str = "text"
        max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None  # None: as the model was published

    outputs = (
        TensorSpec("input_ids", "INT64", (-1, -1)),
        TensorSpec("attention_mask", "INT64", (-1, -1)),
    )

    def __init__(self, options: Options, folder: Path | None) -> None:
        """Raises :class:`~shoal.errors.ModelLoadFailed`."""
        self._input = options.input
        self.inputs = (TensorSpec(options.input, "BYTES", (-1, 1)),)
        if folder is None:
            raise ModelLoadFailed("the model has no folder with a tokenizer.json")
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            limit = options.max_tokens or _published_limit(folder)
        except Exception as error:  # the library raises bare Exception
            raise ModelLoadFailed(f"cannot read the tokenizer in {folder}: {error}") from error
        # The file's own settings are those of its training: rows of 128 tokens, all padded to the full length.
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(limit)
        self._long = LongTexts(self._tokenizer, limit)

    def __call__(self, tensors: Tensors) -> Tensors:
        encodings = self._encode(texts(tensors[self._input], self._input))
        lengths = [len(encoding) for encoding in encodings]
        ids = np.zeros((len(lengths), max(lengths, default=0)), np.int64)  # padding is masked: any id will do
        mask = np.zeros_like(ids)
        for row, encoding in enumerate(encodings):
            ids[row, : lengths[row]] = encoding.ids
            mask[row, : lengths[row]] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def _encode(self, rows: list[str]) -> list[Encoding]:
        """Short texts together, long ones no further than they matter."""
        most = self._long.short
        short = iter(self._tokenizer.encode_batch_fast([row for row in rows if len(row) <= most]))
        return [next(short) if len(row) <= most else self._long.encode(row, self._input) for row in rows]


def _published_limit(folder: Path) -> int:
    """Rows are cut where sentence-transformers cuts them: at the ``max_seq_length`` that the model was published
    with (256 for MiniLM), though its position table reaches further (512)."""
    return msgspec.json.decode((folder / "sentence_bert_config.json").read_bytes(), type=_TextLimits).max_seq_length
