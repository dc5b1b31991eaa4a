"""Do the arrays of a request fit what a model says it takes?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import numpy as np

from shoal.errors import EngineFailed, InvalidRequest
from shoal.types import DTYPES, Array, Tensors, TensorSpec


def check_inputs(inputs: Tensors, specs: Sequence[TensorSpec]) -> None:
    """Raises :class:`~shoal.errors.InvalidRequest` that names the first input that does not fit."""
    for spec in specs:
        if spec.name not in inputs:
            raise InvalidRequest(f"input '{spec.name}' is missing: it is {_described(spec)}", param=spec.name)
        _check_one(inputs[spec.name], spec)
    if len(inputs) > len(specs):
        name = min(inputs.keys() - {spec.name for spec in specs})
        expected = ", ".join(f"'{spec.name}'" for spec in specs)
        raise InvalidRequest(f"there is no input '{name[:64]}'; the model takes {expected}", param=name[:64])


def check_rows(inputs: Tensors) -> None:
    """Have all inputs as many rows? Raises :class:`~shoal.errors.InvalidRequest` that names the first that has not."""
    first: tuple[str, int] | None = None
    for name, array in inputs.items():
        if not array.ndim:
            raise InvalidRequest(f"input '{name[:64]}' must have rows along its first axis", param=name[:64])
        first = first or (name, len(array))
        if len(array) != first[1]:
            raise InvalidRequest(
                f"input '{name[:64]}' must have {first[1]} rows, as '{first[0][:64]}' has, not {len(array)}",
                param=name[:64],
            )


def check_outputs(outputs: Tensors, specs: Sequence[TensorSpec]) -> None:
    """Did the model give what it says it gives? Raises :class:`~shoal.errors.EngineFailed`."""
    for spec in specs:
        if spec.name not in outputs:
            raise EngineFailed(f"the model did not give its output '{spec.name}'")
        if (wrong := _difference(outputs[spec.name], spec)) is not None:
            raise EngineFailed(f"output '{spec.name}' must {wrong}")


def is_tensors(value: object) -> TypeGuard[Tensors]:
    """Is it a dict of names and arrays, as foreign code was asked for?"""
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(array, np.ndarray) for name, array in value.items()
    )


def _check_one(array: Array, spec: TensorSpec) -> None:
    if (wrong := _difference(array, spec)) is not None:
        raise InvalidRequest(f"input '{spec.name}' must {wrong}", param=spec.name)


def _difference(array: Array, spec: TensorSpec) -> str | None:
    if array.dtype != DTYPES[spec.dtype]:
        return f"be {spec.dtype}, not {datatype(array)}"
    fits = array.ndim == len(spec.shape) and all(
        wanted in (-1, got) for wanted, got in zip(spec.shape, array.shape, strict=True)
    )
    return None if fits else f"have shape {list(spec.shape)}, not {list(array.shape)}"


def _described(spec: TensorSpec) -> str:
    return f"{spec.dtype} of shape {list(spec.shape)}"


def datatype(array: Array) -> str:
    """What the Open Inference Protocol calls the array's type; numpy's own name where it has none."""
    return next((name for name, dtype in DTYPES.items() if dtype == array.dtype), str(array.dtype))
