"""The best of many classes, and what they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from shoal.errors import EngineFailed, ModelLoadFailed
from shoal.postproc.labels import read_labels
from shoal.preproc import base
from shoal.types import Tensors, TensorSpec


class TopK:
    """The ``k`` highest of each row, best first: ``scores``, ``indices`` and, with a file of them, ``labels``.

    Of equal ones the first comes first.
    """

    class Options(base.Options, frozen=True):
        k: Annotated[int, msgspec.Meta(ge=1)]
        input: str = "probabilities"
        labels: str | None = None  # a file in the model's folder with a label a line

    def __init__(self, options: Options, folder: Path | None = None) -> None:
        k = options.k
        self._options = options
        self._labels = None if options.labels is None else read_labels(folder, options.labels)
        self.inputs = (TensorSpec(options.input, "FP32", (-1, -1)),)
        self.outputs: tuple[TensorSpec, ...] = (
            TensorSpec("scores", "FP32", (-1, k)),
            TensorSpec("indices", "INT64", (-1, k)),
        )
        if self._labels is not None:
            if k > len(self._labels):
                raise ModelLoadFailed(f"k is {k}, and {options.labels} has {len(self._labels)} labels")
            self.outputs += (TensorSpec("labels", "BYTES", (-1, k)),)

    def __call__(self, tensors: Tensors) -> Tensors:
        scores = tensors[self._options.input]
        self._check(scores.shape[-1])
        indices = np.argsort(-scores, axis=-1, kind="stable")[:, : self._options.k]
        best: Tensors = {
            "scores": np.take_along_axis(scores, indices, axis=-1).astype(np.float32, copy=False),
            "indices": indices.astype(np.int64, copy=False),
        }
        return best if self._labels is None else best | {"labels": self._labels[indices]}

    def _check(self, classes: int) -> None:
        if classes < self._options.k:
            raise EngineFailed(f"k is {self._options.k}, and the model has {classes} classes")
        if self._labels is not None and len(self._labels) != classes:
            raise EngineFailed(f"{self._options.labels} has {len(self._labels)} labels for {classes} classes")
