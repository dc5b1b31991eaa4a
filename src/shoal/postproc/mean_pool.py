"""Token vectors to one sentence vector of length 1."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import msgspec
import numpy as np

from shoal.errors import ModelLoadFailed
from shoal.types import Tensors, TensorSpec

TINY = 1e-12  # keeps a vector of zeros from a division by zero


class _ModelShape(msgspec.Struct, frozen=True):
    """The part of a model's ``config.json`` that is needed here."""

    hidden_size: int


class MeanPool:
    """The mean of ``hidden`` over the tokens that are no padding, as ``embedding``; their number as ``tokens``."""

    def __init__(self, width: int) -> None:
        self.inputs = (
            TensorSpec("hidden", "FP32", (-1, -1, width)),
            TensorSpec("attention_mask", "INT64", (-1, -1)),
        )
        self.outputs = (
            TensorSpec("embedding", "FP32", (-1, width)),
            TensorSpec("tokens", "INT64", (-1,)),
        )

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        try:
            shape = msgspec.json.decode((folder / "config.json").read_bytes(), type=_ModelShape)
        except (OSError, msgspec.MsgspecError) as error:
            raise ModelLoadFailed(f"cannot read {folder / 'config.json'}: {error}") from error
        return cls(shape.hidden_size)

    def __call__(self, tensors: Tensors) -> Tensors:
        hidden, mask = tensors["hidden"], tensors["attention_mask"]
        # Made one long, the sum over the tokens and their mean are the same vector.
        total = np.einsum("bsd,bs->bd", hidden, mask.astype(np.float32))
        length = np.linalg.norm(total, axis=1, keepdims=True)
        return {"embedding": total / np.maximum(length, TINY), "tokens": mask.sum(axis=1)}
