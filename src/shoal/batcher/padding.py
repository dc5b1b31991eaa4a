"""Requests that differ in a free dimension made equal, so that they can share a run.

A free dimension (-1 in the model's specification, the batch aside) is filled up with zeros to the next of the
configured buckets, and an output that is as long as the bucket in a free dimension is cut back. That is right for a
model that does not look at what is behind a row's end, as one with an attention mask; nobody but its owner can know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from shoal.types import Array, Tensors, TensorSpec


@dataclass(frozen=True, slots=True)
class Fitted:
    inputs: Tensors
    lengths: Mapping[int, int]  # a bucket that something was filled up to, and what it was before


class Padding:
    """Does nothing without buckets, or for a model that does not say what it takes and what it gives."""

    def __init__(
        self, buckets: Sequence[int] = (), *, inputs: Sequence[TensorSpec] = (), outputs: Sequence[TensorSpec] = ()
    ) -> None:
        known = bool(inputs and outputs)
        self._buckets = sorted(buckets) if known else []
        self._inputs = {spec.name: _free(spec) for spec in inputs}
        self._outputs = {spec.name: _free(spec) for spec in outputs}

    def fit(self, inputs: Tensors) -> Fitted:
        """As they are, if they are longer than every bucket, or if two lengths would have the same bucket: nobody could
        say then how to cut the outputs."""
        lengths = self._lengths(inputs) if self._buckets else {}
        if lengths is None or all(bucket == length for bucket, length in lengths.items()):
            return Fitted(inputs, {})
        filled = {name: self._fill(array, self._inputs.get(name, ()), lengths) for name, array in inputs.items()}
        return Fitted(filled, lengths)

    def cut(self, outputs: Tensors, lengths: Mapping[int, int]) -> Tensors:
        """Views of the outputs without what padding has added."""
        if not lengths:
            return outputs
        return {name: array[self._kept(name, array, lengths)] for name, array in outputs.items()}

    def _lengths(self, inputs: Tensors) -> dict[int, int] | None:
        found: dict[int, int] = {}
        for name, array in inputs.items():
            for length in _lengths(array, self._inputs.get(name, ())):
                bucket = next((bucket for bucket in self._buckets if bucket >= length), length)
                if found.setdefault(bucket, length) != length:
                    return None
        return found

    def _fill(self, array: Array, free: Sequence[int], lengths: Mapping[int, int]) -> Array:
        target = {length: bucket for bucket, length in lengths.items()}
        shape = [target[length] if axis in free else length for axis, length in enumerate(array.shape)]
        if shape == list(array.shape):
            return array
        filled = np.full(shape, b"", array.dtype) if array.dtype == np.object_ else np.zeros(shape, array.dtype)
        filled[tuple(slice(length) for length in array.shape)] = array
        return filled

    def _kept(self, name: str, array: Array, lengths: Mapping[int, int]) -> tuple[slice, ...]:
        free = self._outputs.get(name, ())
        return tuple(
            slice(lengths.get(length, length) if axis in free else length) for axis, length in enumerate(array.shape)
        )


def _free(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(axis for axis, length in enumerate(spec.shape) if axis and length == -1)


def _lengths(array: Array, free: Sequence[int]) -> Iterator[int]:
    return (array.shape[axis] for axis in free if axis < array.ndim)
