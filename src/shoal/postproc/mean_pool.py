"""Token vectors to one sentence vector of length 1."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from shoal.errors import ModelLoadFailed
from shoal.preproc import base
from shoal.types import Tensors, TensorSpec

TINY = 1e-12  # keeps a vector of zeros from a division by zero


class _ModelShape(msgspec.Struct, frozen=True):
    """The part of a model's ``config.json`` that is needed here."""

    hidden_size: int


class MeanPool:
    """The mean of ``hidden`` over the tokens that are no padding, as ``embedding``; their number as ``tokens``."""

    class Options(base.Options, frozen=True):
        input: str = "hidden"
        output: str = "embedding"

    def __init__(self, options: Options, folder: Path | None) -> None:
        """Raises :class:`~shoal.errors.ModelLoadFailed`."""
        self._options = options
        width = _width(folder)
        self.inputs = (
            TensorSpec(options.input, "FP32", (-1, -1, width)),
            TensorSpec("attention_mask", "INT64", (-1, -1)),
        )
        self.outputs = (
            TensorSpec(options.output, "FP32", (-1, width)),
            TensorSpec("tokens", "INT64", (-1,)),
        )

    def __call__(self, tensors: Tensors) -> Tensors:
        mask = tensors["attention_mask"]
        # A row that ran with longer ones has been padded once more since its mask was made.
        hidden = tensors[self._options.input][:, : mask.shape[1]]
        # Made one long, the sum over the tokens and their mean are the same vector.
        total = np.einsum("bsd,bs->bd", hidden, mask.astype(np.float32))
        length = np.linalg.norm(total, axis=1, keepdims=True)
        return {self._options.output: total / np.maximum(length, TINY), "tokens": mask.sum(axis=1)}


def _width(folder: Path | None) -> int:
    if folder is None:
        raise ModelLoadFailed("the model has no folder with a config.json")
    try:
        return msgspec.json.decode((folder / "config.json").read_bytes(), type=_ModelShape).hidden_size
    except (OSError, msgspec.MsgspecError) as error:
        raise ModelLoadFailed(f"cannot read {folder / 'config.json'}: {error}") from error
