"""Rows of a request to their shards, and what they answered back in the order of the request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shoal.config import ShardConfig
from shoal.errors import EngineFailed, InvalidRequest
from shoal.router.sharding import Key, sharding
from shoal.types import Array, Tensors


@dataclass(frozen=True, slots=True)
class Part:
    """The rows that go to one shard."""

    shard: int
    inputs: Tensors
    rows: npt.NDArray[np.intp]  # where they stand in the request


def scatter(inputs: Tensors, key: str, config: ShardConfig) -> list[Part]:
    """Split a request by the keys of its rows; or all of it goes to the shard of ``key``, where no input chooses.

    Raises :class:`InvalidRequest` that names the input that cannot be split.
    """
    shard_of = sharding(config)
    if not config.key:
        if not key:
            raise InvalidRequest("this model is in shards: the request needs a key that chooses one", param="key")
        return [Part(shard_of(key), inputs, _all_rows(inputs))]
    keys = _keys(inputs, config.key)
    if not keys:
        return [Part(0, inputs, _all_rows(inputs))]
    try:
        shards = np.fromiter((shard_of(row) for row in keys), dtype=np.intp, count=len(keys))
    except InvalidRequest as error:
        raise InvalidRequest(f"input '{config.key}': {error.message}", param=config.key) from error
    chosen = np.unique(shards)
    if len(chosen) == 1:
        return [Part(int(chosen[0]), inputs, np.arange(len(keys)))]
    _check_rows(inputs, len(keys), config.key)
    return [_part(int(shard), inputs, np.flatnonzero(shards == shard)) for shard in chosen]


def gather(parts: Sequence[Part], outputs: Sequence[Tensors]) -> Tensors:
    """The answers of all parts as one. Raises :class:`EngineFailed` when they do not fit together."""
    if len(parts) == 1:
        return outputs[0]
    total = sum(len(part.rows) for part in parts)
    return {name: _gather_one(name, parts, outputs, total) for name in outputs[0]}


def _gather_one(name: str, parts: Sequence[Part], outputs: Sequence[Tensors], total: int) -> Array:
    first = outputs[0][name]
    whole = np.empty((total, *first.shape[1:]), dtype=first.dtype)
    for part, output in zip(parts, outputs, strict=True):
        array = output.get(name)
        if array is None or output.keys() != outputs[0].keys():
            raise EngineFailed(f"shards {parts[0].shard} and {part.shard} answered with different outputs")
        if array.dtype != first.dtype or array.shape != (len(part.rows), *first.shape[1:]):
            raise EngineFailed(
                f"shard {part.shard} answered {len(part.rows)} rows with output '{name}' of {array.dtype} and shape "
                f"{list(array.shape)}, which does not fit {first.dtype} and {list(first.shape)} of shard "
                f"{parts[0].shard}"
            )
        whole[part.rows] = array
    return whole


def _part(shard: int, inputs: Tensors, rows: npt.NDArray[np.intp]) -> Part:
    return Part(shard, {name: array[rows] for name, array in inputs.items()}, rows)


def _keys(inputs: Tensors, name: str) -> list[Key]:
    """One key a row."""
    array = inputs.get(name)
    if array is None:
        raise InvalidRequest(f"input '{name}' is missing: its rows choose the shard", param=name)
    if array.ndim == 0 or array.size != array.shape[0]:
        raise InvalidRequest(
            f"input '{name}' must have one value a row, as it chooses the shard, not shape {list(array.shape)}",
            param=name,
        )
    return [_key(value) for value in array.reshape(-1).tolist()]


def _key(value: object) -> Key:
    if isinstance(value, bytes):
        return value.decode(errors="surrogateescape")
    return value if isinstance(value, (str, int, float)) and not isinstance(value, bool) else str(value)


def _check_rows(inputs: Tensors, rows: int, key: str) -> None:
    for name, array in inputs.items():
        if array.ndim == 0 or array.shape[0] != rows:
            raise InvalidRequest(
                f"input '{name}' must have {rows} rows, as '{key}' has, to be split over shards; its shape is "
                f"{list(array.shape)}",
                param=name,
            )


def _all_rows(inputs: Tensors) -> npt.NDArray[np.intp]:
    first = next(iter(inputs.values()), None)
    return np.arange(0 if first is None or first.ndim == 0 else first.shape[0])
