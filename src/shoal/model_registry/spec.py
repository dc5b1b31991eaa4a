"""What is known of a model before anything is loaded."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from shoal.config import ModelConfig
from shoal.types import FIRST_VERSION, ModelId, ModelKind, ModelName, TensorSpec, Version

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
    OPENAI = "openai"


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a model, as far as it is known before anything is loaded."""

    name: ModelName
    kind: ModelKind
    version: Version = FIRST_VERSION
    source: Source | None = None  # None: only the workers that have the model know
    engine: Engine = Engine.AUTO
    settings: ModelConfig = ModelConfig()
    inputs: tuple[TensorSpec, ...] = ()  # what a tensor model takes; empty: not known before it is loaded
    outputs: tuple[TensorSpec, ...] = ()

    @property
    def id(self) -> ModelId:
        return ModelId(self.name, self.version)

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
