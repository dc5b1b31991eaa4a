"""Text to token ids, with a ``tokenizer.json`` as the ``tokenizers`` library reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import msgspec
import numpy as np
from tokenizers import Tokenizer

from shoal.errors import InvalidRequest, ModelLoadFailed
from shoal.types import Array, Tensors, TensorSpec


class _TextLimits(msgspec.Struct, frozen=True):
    """``sentence_bert_config.json``."""

    max_seq_length: int


class Tokenize:
    """``text`` to ``input_ids`` and ``attention_mask``, padded to the longest row, cut at ``max_tokens``."""

    inputs = (TensorSpec("text", "BYTES", (-1, 1)),)
    outputs = (
        TensorSpec("input_ids", "INT64", (-1, -1)),
        TensorSpec("attention_mask", "INT64", (-1, -1)),
    )

    def __init__(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        # The file's own settings are those of its training: rows of 128 tokens, all padded to the full length.
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Rows are cut where sentence-transformers cuts them: at the ``max_seq_length`` that the model was
        published with (256 for MiniLM), though its position table reaches further (512)."""
        try:
            limits = msgspec.json.decode((folder / "sentence_bert_config.json").read_bytes(), type=_TextLimits)
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises bare Exception
            raise ModelLoadFailed(f"cannot read the tokenizer in {folder}: {error}") from error
        return cls(tokenizer, limits.max_seq_length)

    def __call__(self, tensors: Tensors) -> Tensors:
        encodings = self._tokenizer.encode_batch_fast(_texts(tensors["text"]))
        lengths = [len(encoding) for encoding in encodings]
        ids = np.zeros((len(lengths), max(lengths, default=0)), np.int64)  # padding is masked: any id will do
        mask = np.zeros_like(ids)
        for row, encoding in enumerate(encodings):
            ids[row, : lengths[row]] = encoding.ids
            mask[row, : lengths[row]] = 1
        return {"input_ids": ids, "attention_mask": mask}


def _texts(rows: Array) -> list[str]:
    texts: list[str] = []
    for number, row in enumerate(rows[:, 0]):
        try:
            texts.append(row.decode())
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"row {number} of 'text' is not UTF-8: {error}", param="text") from error
    return texts
