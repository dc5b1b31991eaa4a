"""The bodies of the protocol's answers."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from shoal.api.open_inference.schema import Data, Datatype
from shoal.types import TensorSpec

encode = msgspec.json.Encoder().encode


class ServerMetadata(msgspec.Struct, frozen=True):
    name: str
    version: str
    extensions: list[str]


class ServerLive(msgspec.Struct, frozen=True):
    live: bool


class ServerReady(msgspec.Struct, frozen=True):
    ready: bool


class ModelReady(msgspec.Struct, frozen=True):
    name: str
    ready: bool


class TensorMetadata(msgspec.Struct, frozen=True):
    name: str
    datatype: Datatype
    shape: list[int]

    @classmethod
    def of(cls, spec: TensorSpec) -> TensorMetadata:
        return cls(spec.name, spec.dtype, list(spec.shape))


class Metadata(msgspec.Struct, frozen=True):
    """Inputs and outputs are empty where a model does not say: ``echo`` takes anything."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class TensorSetting(msgspec.Struct, frozen=True):
    name: str
    data_type: str  # TYPE_FP32 …
    dims: list[int]  # without the batch where max_batch_size is above 0

    @classmethod
    def of(cls, spec: TensorSpec, *, batched: bool) -> TensorSetting:
        kind = "STRING" if spec.dtype == "BYTES" else spec.dtype
        return cls(spec.name, f"TYPE_{kind}", list(spec.shape[1:] if batched else spec.shape))


class ModelSettings(msgspec.Struct, frozen=True):
    """Of Triton's model configuration that part which means something here."""

    name: str
    platform: str
    backend: str
    max_batch_size: int  # 0: the first axis need not be a batch
    input: list[TensorSetting]
    output: list[TensorSetting]


class IndexEntry(msgspec.Struct, frozen=True):
    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class BinarySize(msgspec.Struct, frozen=True):
    binary_data_size: int


class OutputTensor(msgspec.Struct, frozen=True, kw_only=True):
    """Either ``data``, flat, or ``parameters`` with the size of its bytes behind the JSON."""

    name: str
    datatype: Datatype
    shape: list[int]
    parameters: BinarySize | UnsetType = UNSET
    data: Data | UnsetType = UNSET


class InferAnswer(msgspec.Struct, frozen=True, kw_only=True):
    model_name: str
    model_version: str
    id: str | UnsetType = UNSET
    outputs: list[OutputTensor]
