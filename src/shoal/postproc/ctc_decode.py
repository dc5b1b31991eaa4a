"""Classes along a line to its text, as connectionist temporal classification reads them (Graves et al., 2006)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shoal.errors import EngineFailed
from shoal.postproc.labels import read_labels
from shoal.preproc import base
from shoal.types import Array, Tensors, TensorSpec


class CtcDecode:
    """The likeliest class at each place to ``text``: repeated ones are one, and class 0 is none and keeps two apart.

    ``score`` is the mean probability of the characters that were kept; 0 where there are none.
    """

    class Options(base.Options, frozen=True):
        labels: str  # a file in the model's folder with a character a line, that of class 0 included
        indices: str = "indices"
        probabilities: str = "probabilities"

    def __init__(self, options: Options, folder: Path | None = None) -> None:
        self._options = options
        self._characters = read_labels(folder, options.labels)
        self.inputs = (
            TensorSpec(options.indices, "INT64", (-1, -1)),
            TensorSpec(options.probabilities, "FP32", (-1, -1)),
        )
        self.outputs = (TensorSpec("text", "BYTES", (-1, 1)), TensorSpec("score", "FP32", (-1, 1)))

    def __call__(self, tensors: Tensors) -> Tensors:
        indices, probabilities = tensors[self._options.indices], tensors[self._options.probabilities]
        if indices.size and not 0 <= indices.min() <= indices.max() < len(self._characters):
            raise EngineFailed(f"class {indices.max()} has no character in {self._options.labels}")
        changes = np.ones(indices.shape, np.bool_)
        changes[:, 1:] = indices[:, 1:] != indices[:, :-1]
        kept = changes & (indices != 0)
        text = np.empty((len(indices), 1), np.object_)
        text[:, 0] = [b"".join(self._characters[row[keep]]) for row, keep in zip(indices, kept, strict=True)]
        return {"text": text, "score": _means(probabilities, kept)}


def _means(probabilities: Array, kept: Array) -> Array:
    totals = np.where(kept, probabilities, 0).sum(axis=1, keepdims=True)
    means: Array = totals / np.maximum(kept.sum(axis=1, keepdims=True), 1)
    return means.astype(np.float32)
