"""From the arrays that a model gave to the tensors of an answer, as JSON or as bytes behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from shoal.api.offload import encode_numbers
from shoal.api.open_inference.answers import BinarySize, InferAnswer, OutputTensor, encode
from shoal.api.open_inference.inputs import LENGTH
from shoal.api.open_inference.schema import InferBody, RequestedOutput
from shoal.errors import EngineFailed, InvalidRequest
from shoal.types import DTYPES, Array, Tensors, TensorSpec

_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}


class Wanted(msgspec.Struct, frozen=True):
    """What the client asked for: some outputs, each as bytes or not, or all of them."""

    outputs: Mapping[str, bool] | None
    binary: bool  # of all of them

    @classmethod
    def of(cls, body: InferBody, known: Sequence[TensorSpec]) -> Wanted:
        """``known``: the model's outputs, as far as it says. Raises :class:`InvalidRequest`."""
        binary = bool(body.parameters and body.parameters.binary_data_output)
        if not body.outputs:
            return cls(None, binary)
        outputs: dict[str, bool] = {}
        for output in body.outputs:
            if output.name in outputs:
                raise InvalidRequest(f"output '{output.name}' is asked for twice", param=output.name)
            outputs[output.name] = _is_binary(output, binary)
        wanted = cls(outputs, binary)
        if known:
            wanted.check([spec.name for spec in known])
        return wanted

    def check(self, known: Sequence[str]) -> None:
        """Raises :class:`InvalidRequest` for an output that is not among these."""
        for name in self.outputs or ():
            if name not in known:
                there = ", ".join(f"'{other}'" for other in known)
                raise InvalidRequest(f"there is no output '{name}'; the model gives {there}", param=name)

    def choose(self, made: Tensors) -> list[tuple[str, Array, bool]]:
        """Name, array and whether as bytes, in the order asked for. Raises :class:`InvalidRequest`."""
        if self.outputs is None:
            return [(name, array, self.binary) for name, array in made.items()]
        self.check(list(made))
        return [(name, made[name], binary) for name, binary in self.outputs.items()]


def _is_binary(output: RequestedOutput, otherwise: bool) -> bool:
    parameters = output.parameters
    if parameters is None:
        return otherwise
    if parameters.classification is not None:
        raise InvalidRequest(
            f"output '{output.name}': classification is not supported, take the largest values of the output itself",
            param=output.name,
        )
    if parameters.shared_memory_region is not None:
        raise InvalidRequest(f"output '{output.name}': shared memory is not supported", param=output.name)
    return otherwise if parameters.binary_data is None else parameters.binary_data


def write_outputs(
    chosen: Sequence[tuple[str, Array, bool]], model: str, version: str, request_id: str | None
) -> tuple[bytes, list[memoryview]]:
    """The JSON, and the bytes behind it: views on the arrays. Raises :class:`InvalidRequest` for bytes that JSON
    cannot say."""
    tensors: list[OutputTensor] = []
    pieces: list[memoryview] = []
    for name, array, binary in chosen:
        if binary:
            pieces.append(_bytes(array))
            tensors.append(_tensor(name, array, parameters=BinarySize(pieces[-1].nbytes)))
        else:
            tensors.append(_tensor(name, array, data=_json(name, array)))
    answer = InferAnswer(
        model_name=model,
        model_version=version,
        id=msgspec.UNSET if request_id is None else request_id,
        outputs=tensors,
    )
    return encode(answer), pieces


def _tensor(
    name: str,
    array: Array,
    *,
    parameters: BinarySize | msgspec.UnsetType = msgspec.UNSET,
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET,
) -> OutputTensor:
    datatype = _NAMES.get(array.dtype)
    if datatype is None:
        raise EngineFailed(f"output '{name}' has the type {array.dtype}, which the protocol lacks")
    return OutputTensor(name=name, datatype=datatype, shape=list(array.shape), parameters=parameters, data=data)


def _bytes(array: Array) -> memoryview:
    if array.dtype == np.object_:
        return memoryview(b"".join(len(item).to_bytes(LENGTH, "little") + item for item in array.flat))
    if not array.size:  # a view cannot be cast
        return memoryview(b"")
    return np.ascontiguousarray(array).data.cast("B")


def _json(name: str, array: Array) -> msgspec.Raw:
    if array.dtype != np.object_:
        return encode_numbers(array)
    try:
        return msgspec.Raw(encode([item.decode() for item in array.flat]))
    except UnicodeDecodeError:
        raise InvalidRequest(
            f"output '{name}' has bytes that are no text: ask for it as binary data", param=name
        ) from None
