"""The bodies of OpenAI's answers."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from shoal.types import FinishReason, TokenLogprob, Usage

LEAST_LOGPROB = -9999.0  # JSON has no minus infinity; OpenAI writes this

ChatFinish = Annotated[str, msgspec.Meta(extra_json_schema={"enum": [*FinishReason, "tool_calls"]})]

encode = msgspec.json.Encoder().encode


def event(body: Any) -> bytes:
    """One server-sent event; encoded JSON has no line breaks that would end it early."""
    return b"data: " + encode(body) + b"\n\n"


class CachedTokens(msgspec.Struct, frozen=True):
    cached_tokens: int


class UsageBody(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens

    @classmethod
    def of(cls, usage: Usage) -> UsageBody:
        both = usage.prompt_tokens + usage.completion_tokens
        return cls(usage.prompt_tokens, usage.completion_tokens, both, CachedTokens(usage.cached_tokens))


class TopLogprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    raw: list[int] = msgspec.field(name="bytes")

    @classmethod
    def of(cls, text: bytes, logprob: float) -> TopLogprob:
        return cls(token_text(text), finite(logprob), list(text))


class ContentLogprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    raw: list[int] = msgspec.field(name="bytes")
    top_logprobs: list[TopLogprob]

    @classmethod
    def of(cls, token: TokenLogprob) -> ContentLogprob:
        top = [TopLogprob.of(text, logprob) for _, text, logprob in token.top]
        return cls(token_text(token.text), finite(token.logprob), list(token.text), top)


class ChatLogprobs(msgspec.Struct, frozen=True):
    content: list[ContentLogprob]
    refusal: None = None


class CalledFunction(msgspec.Struct, frozen=True):
    name: str
    arguments: str  # JSON as the model wrote it; incomplete when its tokens ran out


class CallAnswer(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class AssistantMessage(msgspec.Struct, frozen=True, kw_only=True):
    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[CallAnswer] | UnsetType = UNSET


class ChatChoice(msgspec.Struct, frozen=True):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinish | None


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageBody


class FunctionDelta(msgspec.Struct, frozen=True):
    arguments: str
    name: str | UnsetType = UNSET


class CallDelta(msgspec.Struct, frozen=True):
    """The first of a call has its id and name; those that follow go on with its arguments."""

    index: int
    function: FunctionDelta
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


class Delta(msgspec.Struct, frozen=True):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    tool_calls: list[CallDelta] | UnsetType = UNSET


class DeltaChoice(msgspec.Struct, frozen=True):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: ChatFinish | None = None


class ChatCompletionChunk(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[DeltaChoice]
    usage: UsageBody | UnsetType | None = UNSET  # null in all but the last chunk of a stream that has it


class TextLogprobs(msgspec.Struct, frozen=True):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(msgspec.Struct, frozen=True):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason | None


class TextCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """Whole, and as a chunk of a stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: UsageBody | UnsetType | None = UNSET


class EmbeddingUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int


#: Numbers, or base64 of little-endian float32.
_NUMBER: Final = {"anyOf": [{"type": "number"}, {"type": "null"}]}
_VECTOR: Final = {"anyOf": [{"type": "array", "items": _NUMBER}, {"type": "string"}]}


class Embedding(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema=_VECTOR)]


class EmbeddingList(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's fields, vLLM's ``root`` (the name behind an alias), and what the model is."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["shoal"] = "shoal"
    root: str
    kind: str
    ready: bool
    state: str
    reason: str  # why it is not ready; empty where that is not known


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[Model]


def token_text(text: bytes) -> str:
    r"""A token may be a part of a character: its bytes are then written as ``\xe2\x80``."""
    return text.decode("utf-8", "backslashreplace")


def finite(logprob: float) -> float:
    return max(logprob, LEAST_LOGPROB)
