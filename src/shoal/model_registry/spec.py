"""What is known of a model before anything is loaded."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from shoal.messages import Resources
from shoal.types import ModelKind, ModelName, TensorSpec


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
    """One version of a model."""

    name: ModelName
    kind: ModelKind
    uri: str = ""  # as it was written, options included; empty: only the workers that have the model know
    source: Source | None = None  # None: as above
    version: str = "1"
    engine: Engine = Engine.AUTO
    aliases: tuple[ModelName, ...] = ()
    inputs: tuple[TensorSpec, ...] = ()  # what a tensor model takes; empty: not known before it is loaded
    batchable: bool = True  # may several requests share a run?
    quantized: bool = False
    resources: Resources = Resources()  # what one replica needs; 0: not known

    @property
    def target(self) -> str:
        """The URI without its options: the file, the name, the class or the address."""
        return self.uri.partition("?")[0]
