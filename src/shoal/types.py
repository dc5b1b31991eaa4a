"""The words everyone shares: small frozen values without behaviour."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple, NewType

import msgspec
import numpy as np
import numpy.typing as npt

RequestId = NewType("RequestId", str)
WorkerId = NewType("WorkerId", str)
CoordinatorId = NewType("CoordinatorId", str)
ModelName = NewType("ModelName", str)
Version = NewType("Version", str)

Array = npt.NDArray[Any]
Tensors = dict[str, Array]
TokenId = int

Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]
Temperature = Annotated[float, msgspec.Meta(ge=0, le=2)]
TopP = Annotated[float, msgspec.Meta(gt=0, le=1)]
Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
TokenCount = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
RepetitionPenalty = Annotated[float, msgspec.Meta(ge=0.01, le=10)]  # scores are divided by it


FIRST_VERSION = Version("1")  # of a model whose version nobody named


class ModelId(NamedTuple):
    """One immutable build of a model, written ``NAME@VERSION``."""

    name: ModelName
    version: Version = FIRST_VERSION

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class ModelPart(NamedTuple):
    """What a replica is a copy of: a model, or one shard of it, written ``NAME@VERSION#SHARD``."""

    model: ModelId
    shard: int | None = None

    def __str__(self) -> str:
        return str(self.model) if self.shard is None else f"{self.model}#{self.shard}"


class FinishReason(StrEnum):
    STOP = "stop"  # end of sequence, or a stop string
    LENGTH = "length"  # max_tokens, or the context is full


class ModelKind(StrEnum):
    GENERATE = "generate"  # tokens in, tokens out
    TENSOR = "tensor"  # named arrays in, named arrays out


class WorkerState(StrEnum):
    STARTING = "starting"  # registered, its models are still loading
    READY = "ready"
    OVERLOADED = "overloaded"  # alive and working, takes nothing new
    DRAINING = "draining"  # finishes what it has, then leaves
    GONE = "gone"


class ModelState(StrEnum):
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"  # with a reason; its supervisor tries again


class ToolCall(msgspec.Struct, frozen=True):
    """A model's wish that the client calls one of its functions."""

    id: str
    name: str
    arguments: str  # a JSON object as text


class ChatMessage(msgspec.Struct, frozen=True):
    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()  # of an assistant
    tool_call_id: str = ""  # of a tool: the call that this is the result of


class Tool(msgspec.Struct, frozen=True):
    """A function of the client's that the model may ask for."""

    name: str
    description: str = ""
    parameters: str = ""  # a JSON schema as text; empty: it has none


class ChatPrompt(msgspec.Struct, frozen=True, tag="chat"):
    """Messages that the model's own chat template turns into a prompt."""

    messages: tuple[ChatMessage, ...]
    tools: tuple[Tool, ...] = ()


#: How a model writes a call of a tool: between these, an object with ``name`` and ``arguments``, as in Hermes and Qwen.
TOOL_CALL_BEGIN = "<tool_call>"
TOOL_CALL_END = "</tool_call>"


class TextPrompt(msgspec.Struct, frozen=True, tag="text"):
    text: str


class TokenPrompt(msgspec.Struct, frozen=True, tag="tokens"):
    tokens: tuple[TokenId, ...]


Prompt = ChatPrompt | TextPrompt | TokenPrompt


class Grammar(msgspec.Struct, frozen=True):
    """A constraint that every generated token obeys."""

    kind: Literal["json_schema", "json_object", "regex", "lark"]
    source: str = ""  # the schema as JSON text, the expression, or the grammar
    param: str = "response_format"  # the field of the request it comes from, for errors


class Sampling(msgspec.Struct, frozen=True):
    """How tokens are chosen. The defaults are OpenAI's; what OpenAI lacks is named as vLLM names it.

    A draw depends on ``seed`` and the token's position alone, never on a generator's state, so a continuation
    is the same wherever it runs. Who gives none gets one from the coordinator.
    """

    max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None  # None: until the context is full
    temperature: Temperature = 1.0  # 0 is greedy
    top_p: TopP = 1.0
    top_k: Annotated[int, msgspec.Meta(ge=0)] = 0  # 0: off
    min_p: Probability = 0.0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repetition_penalty: RepetitionPenalty = 1.0
    logit_bias: dict[TokenId, float] = {}
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None  # alternatives a token; None: off


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """One generated token with its natural-log probability under the unmodified model."""

    token: TokenId
    text: bytes  # a token may be a part of a UTF-8 character
    logprob: float
    top: tuple[tuple[TokenId, bytes, float], ...] = ()  # the likeliest, best first


class Usage(msgspec.Struct, frozen=True, array_like=True):
    """Counted in tokens."""

    prompt_tokens: TokenCount
    completion_tokens: TokenCount
    cached_tokens: TokenCount = 0  # the part of the prompt whose KV was already there


class TensorSpec(msgspec.Struct, frozen=True):
    """One named input or output. A dimension of -1 is free; the first is the batch."""

    name: str
    dtype: str  # Open Inference Protocol names: FP32, INT64, BYTES …
    shape: tuple[int, ...]


class StepSpec(msgspec.Struct, frozen=True):
    """A step before or after inference: the name of a built-in one, or ``package.module:Class``, and its options."""

    name: str
    options: dict[str, Any] = {}


#: Open Inference Protocol data types and what numpy calls them.
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}
