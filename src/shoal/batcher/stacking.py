"""Named arrays with a batch axis: may they be stacked, stack them, take them apart."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np

from shoal.errors import EngineFailed, InvalidRequest
from shoal.types import Tensors


def count_rows(inputs: Tensors) -> int:
    """The length of the first axis. Raises :class:`~shoal.errors.InvalidRequest` unless all arrays agree on it."""
    if not inputs:
        raise InvalidRequest("the request has no inputs", param="inputs")
    first, count = "", 0
    for name, array in inputs.items():
        rows = array.shape[0] if array.ndim else 0
        if rows == 0:
            raise InvalidRequest(f"input '{name}' has no rows: its first axis is the batch", param=name)
        if rows != count and count:
            raise InvalidRequest(f"input '{name}' has {rows} rows and input '{first}' has {count}", param=name)
        first, count = first or name, rows
    return count


def stacking_key(inputs: Tensors) -> Hashable:
    """Equal for inputs that differ in nothing but their rows."""
    return frozenset((name, array.dtype, array.shape[1:]) for name, array in inputs.items())


def stack(parts: Sequence[Tensors]) -> Tensors:
    """One after the other along the first axis; a single part is handed on uncopied."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def split(outputs: Tensors, sizes: Sequence[int]) -> Iterator[Tensors]:
    """Undo :func:`stack`. Raises :class:`~shoal.errors.EngineFailed` when the outputs do not have those rows."""
    total = sum(sizes)
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != total:
            raise EngineFailed(f"output '{name}' has shape {list(array.shape)} for a batch of {total} rows")
    start = 0
    for size in sizes:
        yield {name: array[start : start + size] for name, array in outputs.items()}
        start += size
