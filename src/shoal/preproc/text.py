"""Text as it comes to text as a model knows it."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Literal

import numpy as np

from shoal.errors import InvalidRequest
from shoal.preproc import base
from shoal.types import Array, Tensors, TensorSpec


def texts(rows: Array, name: str) -> list[str]:
    """The rows of a BYTES array of shape (rows, 1). Raises :class:`~shoal.errors.InvalidRequest` with the row."""
    found: list[str] = []
    for number, row in enumerate(rows[:, 0]):
        try:
            found.append(row.decode())
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"row {number} of '{name}' is not UTF-8: {error}", param=name) from error
    return found


class NormalizeText:
    """One way to write what Unicode can write in several, without the space around it."""

    class Options(base.Options, frozen=True):
        input: str = "text"
        output: str = "text"
        form: Literal["NFC", "NFD", "NFKC", "NFKD"] = "NFC"
        lower: bool = False
        strip: bool = True

    def __init__(self, options: Options, folder: Path | None = None) -> None:
        self._options = options
        self.inputs = (TensorSpec(options.input, "BYTES", (-1, 1)),)
        self.outputs = (TensorSpec(options.output, "BYTES", (-1, 1)),)

    def __call__(self, tensors: Tensors) -> Tensors:
        options = self._options
        rows = [[self._normalize(text).encode()] for text in texts(tensors[options.input], options.input)]
        return {options.output: np.array(rows, np.object_).reshape(-1, 1)}

    def _normalize(self, text: str) -> str:
        # Lowering first: it may leave marks apart that the form joins.
        text = unicodedata.normalize(self._options.form, text.lower() if self._options.lower else text)
        return text.strip() if self._options.strip else text
