"""Numbers as they come to numbers as a model was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np

from shoal.errors import InvalidRequest, ModelLoadFailed
from shoal.preproc import base
from shoal.types import DTYPES, Array, Tensors, TensorSpec


class Normalize:
    """``(input * scale - mean) / std`` as FP32; ``mean`` and ``std`` are for all of the last axis, or for each of it.

    Pictures come with the channels last; ``layout: NCHW`` puts them first, as most models want them.
    """

    class Options(base.Options, frozen=True):
        input: str = "image"
        output: str = "image"
        dtype: str = "UINT8"  # of the input, and its shape
        shape: tuple[int, ...] = (-1, -1, -1, -1)
        scale: float = 1 / 255
        mean: Annotated[tuple[float, ...], msgspec.Meta(min_length=1)] = (0.0,)
        std: Annotated[tuple[float, ...], msgspec.Meta(min_length=1)] = (1.0,)
        layout: Literal["NHWC", "NCHW"] = "NHWC"

    def __init__(self, options: Options, folder: Path | None = None) -> None:
        _check(options)
        self._options = options
        self._factor = np.float32(options.scale) / np.array(options.std, np.float32)
        self._offset = np.array(options.mean, np.float32) / np.array(options.std, np.float32)
        self._channels = max(len(options.mean), len(options.std))
        shape = options.shape
        to = (shape[0], shape[3], shape[1], shape[2]) if options.layout == "NCHW" else shape
        self.inputs = (TensorSpec(options.input, options.dtype, shape),)
        self.outputs = (TensorSpec(options.output, "FP32", to),)

    def __call__(self, tensors: Tensors) -> Tensors:
        name = self._options.input
        array = tensors[name]
        if array.dtype == np.object_:
            raise InvalidRequest(f"the rows of '{name}' differ in size; a step before must make them alike", param=name)
        if array.ndim != len(self._options.shape) or self._channels not in (1, array.shape[-1]):
            raise InvalidRequest(
                f"'{name}' has shape {list(array.shape)}, which does not suit {self._channels} means", param=name
            )
        normal: Array = array.astype(np.float32)
        normal *= self._factor
        normal -= self._offset
        if self._options.layout == "NCHW":
            normal = np.ascontiguousarray(normal.transpose(0, 3, 1, 2))
        return {self._options.output: normal}


def _check(options: Normalize.Options) -> None:
    """What a type cannot say."""
    if options.dtype not in DTYPES or options.dtype == "BYTES":
        raise ModelLoadFailed(f"dtype '{options.dtype}' is none of numbers")
    if not all(options.std):
        raise ModelLoadFailed("std must not be 0")
    if len({1, len(options.mean), len(options.std)}) > 2:
        raise ModelLoadFailed(f"mean has {len(options.mean)} values and std {len(options.std)}")
    if not options.shape or (options.layout == "NCHW" and len(options.shape) != 4):
        raise ModelLoadFailed(f"layout {options.layout} does not suit {len(options.shape)} axes")
