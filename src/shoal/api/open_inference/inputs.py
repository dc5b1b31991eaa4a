"""From the tensors of a request, written as JSON or as bytes behind it, to arrays."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from msgspec import UNSET

from shoal.api.limits import ApiLimits
from shoal.api.open_inference.schema import InputTensor
from shoal.errors import InvalidRequest
from shoal.types import DTYPES, Array, Tensors, TensorSpec

LENGTH: Final = 4  # bytes before each element of a BYTES tensor: its length, little-endian

_SPACES: Final = b" \t\n\r"


def read_inputs(tensors: list[InputTensor], binary: memoryview, limits: ApiLimits) -> Tensors:
    """The inputs by name; those in ``binary`` are read-only views on it, copied only where they are not aligned.

    Raises :class:`InvalidRequest` that names the input.
    """
    inputs: Tensors = {}
    offset = 0
    for tensor in tensors:
        if tensor.name in inputs:
            raise _wrong(tensor, "is there twice")
        size = _binary_size(tensor)
        if size is None:
            inputs[tensor.name] = _from_json(tensor, limits)
            continue
        if size > len(binary) - offset:
            raise _wrong(tensor, f"has {size} bytes of binary data, but {len(binary) - offset} are left in the body")
        inputs[tensor.name] = _from_bytes(tensor, binary[offset : offset + size], limits)
        offset += size
    if offset < len(binary):
        raise InvalidRequest(f"the body has {len(binary) - offset} bytes behind the last input")
    return inputs


def read_alone(inputs: Sequence[TensorSpec], data: memoryview, limits: ApiLimits) -> Tensors:
    """The only input of a model, of which ``data`` is all: numbers that fill its free dimension, or one of BYTES.

    Raises :class:`InvalidRequest`.
    """
    if len(inputs) != 1:
        known = f"has {len(inputs)}" if inputs else "does not say what it takes"
        raise InvalidRequest(f"a body without JSON is for models with one input; this one {known}")
    spec = inputs[0]
    shape = [1 if dimension < 0 else dimension for dimension in spec.shape]
    if spec.dtype in DTYPES and spec.dtype != "BYTES" and spec.shape.count(-1) == 1:
        row = math.prod(shape) * DTYPES[spec.dtype].itemsize
        shape[spec.shape.index(-1)] = len(data) // max(1, row)
    tensor = InputTensor(name=spec.name, shape=shape, datatype=spec.dtype)
    if spec.dtype == "BYTES":
        return {spec.name: _reshaped(_objects([bytes(data)]), tensor)}
    return {spec.name: _from_bytes(tensor, data, limits)}


def _binary_size(tensor: InputTensor) -> int | None:
    """None: its data is JSON."""
    parameters = tensor.parameters
    if parameters is not None and parameters.shared_memory_region is not None:
        raise _wrong(tensor, "is in shared memory, which is not supported: send it in the body")
    size = parameters.binary_data_size if parameters is not None else None
    if (size is None) == (tensor.data is UNSET):
        raise _wrong(tensor, "needs either data or the parameter binary_data_size")
    return size


def _dtype(tensor: InputTensor) -> np.dtype[Any]:
    if tensor.datatype == "BF16":
        raise _wrong(tensor, "is BF16, which is not supported: send FP32 or FP16")
    if tensor.datatype not in DTYPES:
        raise _wrong(tensor, f"has the datatype '{tensor.datatype[:32]}'; there are {', '.join(DTYPES)}")
    return DTYPES[tensor.datatype]


def _count(tensor: InputTensor, limits: ApiLimits) -> int:
    count = math.prod(tensor.shape)
    if tensor.datatype == "BYTES" and count > limits.byte_strings:
        raise _wrong(tensor, f"has {count} elements; of BYTES there may be {limits.byte_strings}")
    return count


def _reshaped(array: Array, tensor: InputTensor) -> Array:
    try:
        return array.reshape(tensor.shape)
    except ValueError as error:  # without elements, but with other dimensions beyond what numpy can count
        raise _wrong(tensor, f"cannot have the shape {tensor.shape}") from error


# -- binary


def _from_bytes(tensor: InputTensor, data: memoryview, limits: ApiLimits) -> Array:
    dtype = _dtype(tensor)
    count = _count(tensor, limits)
    if tensor.datatype == "BYTES":
        return _reshaped(_objects(_elements(tensor, data, count)), tensor)
    if len(data) != count * dtype.itemsize:
        expected = f"{count * dtype.itemsize} bytes as {tensor.datatype} of shape {tensor.shape}"
        raise _wrong(tensor, f"has {expected}, not {len(data)}")
    array: Array = np.frombuffer(data, dtype)
    if tensor.datatype == "BOOL" and np.any(array.view(np.uint8) > 1):
        raise _wrong(tensor, "is BOOL and has a byte that is neither 0 nor 1")
    return _reshaped(array if array.flags.aligned else array.copy(), tensor)


def _elements(tensor: InputTensor, data: memoryview, count: int) -> list[bytes]:
    elements: list[bytes] = []
    offset = 0
    for _ in range(count):
        begin = offset + LENGTH
        offset = begin + int.from_bytes(data[begin - LENGTH : begin], "little")
        if offset > len(data) or begin > len(data):
            raise _wrong(tensor, f"ends within element {len(elements)} of {count}")
        elements.append(bytes(data[begin:offset]))
    if offset != len(data):
        raise _wrong(tensor, f"has {len(data) - offset} bytes behind its {count} elements")
    return elements


# -- JSON


def _from_json(tensor: InputTensor, limits: ApiLimits) -> Array:
    dtype = _dtype(tensor)
    count = _count(tensor, limits)
    raw = memoryview(tensor.data)  # type: ignore[arg-type]  # it is a buffer
    depth = _depth(raw)
    if depth < 1 or depth not in (1, len(tensor.shape)):
        raise _wrong(tensor, f"has data of {depth} dimensions for a shape of {len(tensor.shape)}")
    try:
        array = np.array(_decoder(tensor.datatype, depth).decode(raw), dtype)
    except msgspec.ValidationError as error:
        raise _wrong(tensor, f"has wrong data: {error}") from error
    except (ValueError, OverflowError) as error:  # lists of different lengths, beyond 64 bits, or no JSON
        raise _wrong(tensor, f"has data that is no {tensor.datatype} of shape {tensor.shape}: {error}") from error
    if array.size != count or (depth > 1 and array.shape != tuple(tensor.shape)):
        raise _wrong(tensor, f"has data that is not of the shape {tensor.shape}")
    if tensor.datatype == "BYTES":
        array = _objects([text.encode() for text in array.flat])
    return _reshaped(array, tensor)


def _depth(raw: memoryview) -> int:
    """How many lists begin before the first value does."""
    depth = 0
    for byte in raw:
        if byte == ord("["):
            depth += 1
        elif byte not in _SPACES:
            break
    return depth


@functools.lru_cache(maxsize=128)
def _decoder(datatype: str, depth: int) -> msgspec.json.Decoder[Any]:
    kind = _element(datatype)
    for _ in range(depth):
        kind = list[kind]  # type: ignore[valid-type]
    return msgspec.json.Decoder(kind)


def _element(datatype: str) -> Any:
    if datatype == "BOOL":
        return bool
    if datatype == "BYTES":
        return str
    dtype = DTYPES[datatype]
    if dtype.kind == "f":
        most = float(np.finfo(dtype).max)
        return Annotated[float, msgspec.Meta(ge=-most, le=most)]
    limits = np.iinfo(dtype)
    if limits.max > 2**63 - 1:  # msgspec compares with signed numbers of 64 bits
        return Annotated[int, msgspec.Meta(ge=0)]
    return Annotated[int, msgspec.Meta(ge=int(limits.min), le=int(limits.max))]


def _objects(elements: list[bytes]) -> Array:
    array = np.empty(len(elements), dtype=np.object_)
    array[:] = elements
    return array


def _wrong(tensor: InputTensor, reason: str) -> InvalidRequest:
    return InvalidRequest(f"input '{tensor.name}' {reason}", param=tensor.name)
