"""What is known of a model: what was configured, and what the workers that have it loaded tell."""

from __future__ import annotations

from enum import StrEnum
from functools import cached_property
from typing import Final

import msgspec

from shoal.config import ModelConfig
from shoal.errors import InvalidRequest
from shoal.messages import ModelInfo
from shoal.model_registry.schema import check_inputs, check_rows
from shoal.types import (
    FIRST_VERSION,
    ModelId,
    ModelKind,
    ModelName,
    ModelPart,
    ModelState,
    Tensors,
    TensorSpec,
    Version,
    WorkerId,
)

DOES = {ModelKind.GENERATE: "generates text", ModelKind.TENSOR: "infers on tensors"}

_SHARD: Final = "{shard}"


class Source(StrEnum):
    """What a model's URI points at."""

    BUILT_IN = "built_in"  # a name that Shoal knows
    GGUF = "gguf"  # a file
    ONNX = "onnx"  # a file
    PYTHON = "python"  # package.module:Class
    OPENAI = "openai"  # a server that speaks OpenAI's protocol


class Engine(StrEnum):
    AUTO = "auto"  # the best one that is installed and can run it
    ECHO = "echo"
    OPENVINO = "openvino"
    LLAMA = "llama"
    ONNX = "onnx"
    PYTHON = "python"
    LANGUAGE = "language"  # a Python class that is a LanguageEngine
    OPENAI = "openai"


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One version of a model."""

    name: ModelName
    kind: ModelKind
    version: Version = FIRST_VERSION
    source: Source | None = None  # None: only the workers that have the model know
    engine: Engine = Engine.AUTO
    settings: ModelConfig = ModelConfig()
    inputs: tuple[TensorSpec, ...] = ()  # what a tensor model takes; empty: not known before it is loaded
    outputs: tuple[TensorSpec, ...] = ()
    batchable: bool | None = None  # may several requests share a run? None: not known before it is loaded
    context_length: int = 0  # tokens; 0: not known before it is loaded, or a tensor model

    @cached_property
    def id(self) -> ModelId:
        return ModelId(self.name, self.version)

    @cached_property
    def whole(self) -> ModelPart:
        """All of it, where it is in no shards."""
        return ModelPart(self.id)

    def part(self, shard: int | None) -> ModelPart:
        return self.whole if shard is None else ModelPart(self.id, shard)

    def parts(self) -> tuple[ModelPart, ...]:
        """What replicas of it are copies of: all of it, or each of its shards."""
        shards = self.settings.shards
        return tuple(map(self.part, range(shards.count) if shards else (None,)))

    def of_shard(self, shard: int | None) -> ModelSpec:
        """The same for one of its shards: ``{shard}`` in its URI becomes the number."""
        uri = self.settings.uri
        if shard is None or _SHARD not in uri:
            return self
        settings = msgspec.structs.replace(self.settings, uri=uri.replace(_SHARD, str(shard)))
        return msgspec.structs.replace(self, settings=settings)

    @property
    def target(self) -> str:
        """The URI without its options: the file, the name, the class or the address."""
        return self.settings.uri.partition("?")[0]

    def completed(self, info: ModelInfo) -> ModelSpec:
        """With what a worker tells of the loaded model, where the configuration leaves it open."""
        if info.state is not ModelState.READY:
            return self
        made = msgspec.structs.replace(
            self,
            inputs=self.inputs or info.inputs,
            outputs=self.outputs or info.outputs,
            batchable=info.batchable if self.batchable is None else self.batchable,
            context_length=self.context_length or info.context_length,
        )
        return self if made == self else made

    def check_kind(self, kind: ModelKind) -> None:
        """Is it of the kind that a request needs? Raises :class:`InvalidRequest`."""
        if self.kind is not kind:
            message = f"model '{self.name}' {DOES[self.kind]}; this request needs one that {DOES[kind]}"
            raise InvalidRequest(message, param="model")

    def check(self, inputs: Tensors) -> None:
        """Do the arrays fit, as far as is known? Raises :class:`InvalidRequest` that names the one that does not."""
        if self.inputs:
            check_inputs(inputs, self.inputs)
        if self.batchable:
            check_rows(inputs)


class Placement(msgspec.Struct, frozen=True):
    """Which workers shall have a model that was loaded while serving: those named, so many, or all."""

    workers: tuple[WorkerId, ...] = ()
    replicas: int | None = None

    def __str__(self) -> str:
        if self.workers:
            return ", ".join(self.workers)
        return "all" if self.replicas is None else str(self.replicas)
