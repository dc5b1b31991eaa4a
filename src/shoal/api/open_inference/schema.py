"""The bodies of the protocol's requests. Unknown fields and parameters are ignored, as in OpenAI's."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType

from shoal.types import DTYPES

MAX_TENSORS = 256  # of one request
MAX_DIMENSIONS = 32  # as on the wire
MAX_DIMENSION = 2**62

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Dimension = Annotated[int, msgspec.Meta(ge=0, le=MAX_DIMENSION)]
Shape = Annotated[list[Dimension], msgspec.Meta(max_length=MAX_DIMENSIONS)]
Size = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
#: Any text is read, so that the refusal can say what is wrong with it.
Datatype = Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(DTYPES)})]
#: Kept as it came until the data type says how to read it. Numbers, flat or nested like the shape.
Data = Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"type": "array", "items": {}})]


class Body(msgspec.Struct, kw_only=True, frozen=True):
    """Null means the same as leaving a field out."""


class SharedMemory(Body, kw_only=True, frozen=True):
    shared_memory_region: str | None = None  # refused


class InputParameters(SharedMemory, kw_only=True, frozen=True):
    binary_data_size: Size | None = None  # bytes behind the JSON that are this input's


class OutputParameters(SharedMemory, kw_only=True, frozen=True):
    binary_data: bool | None = None
    classification: Any = None  # refused


class RequestParameters(Body, kw_only=True, frozen=True):
    binary_data_output: bool | None = None  # of the outputs that say nothing themselves
    priority: Annotated[int, msgspec.Meta(ge=0, le=201)] | None = None  # 1 is the most urgent; 0: as others
    timeout: Size | None = None  # microseconds; 0: the server's own
    sequence_id: int | str | None = None  # refused, unless 0 or empty


class InputTensor(Body, kw_only=True, frozen=True):
    name: Name
    shape: Shape
    datatype: Datatype
    parameters: InputParameters | None = None
    data: Data | UnsetType = UNSET


class RequestedOutput(Body, kw_only=True, frozen=True):
    name: Name
    parameters: OutputParameters | None = None


class InferBody(Body, kw_only=True, frozen=True):
    id: str | None = None
    inputs: Annotated[list[InputTensor], msgspec.Meta(min_length=1, max_length=MAX_TENSORS)]
    outputs: Annotated[list[RequestedOutput], msgspec.Meta(max_length=MAX_TENSORS)] | None = None  # none: all of them
    parameters: RequestParameters | None = None


class IndexBody(Body, kw_only=True, frozen=True):
    ready: bool | None = None  # only the models that are
