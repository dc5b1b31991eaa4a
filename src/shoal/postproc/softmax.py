"""Scores of any size to probabilities."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shoal.preproc import base
from shoal.types import Tensors, TensorSpec


class Softmax:
    """Over the last axis; a row's probabilities do not depend on the other rows."""

    class Options(base.Options, frozen=True):
        input: str = "logits"
        output: str = "probabilities"

    def __init__(self, options: Options, folder: Path | None = None) -> None:
        self._options = options
        self.inputs = (TensorSpec(options.input, "FP32", (-1, -1)),)
        self.outputs = (TensorSpec(options.output, "FP32", (-1, -1)),)

    def __call__(self, tensors: Tensors) -> Tensors:
        logits = tensors[self._options.input].astype(np.float32, copy=False)
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return {self._options.output: powers / powers.sum(axis=-1, keepdims=True)}
