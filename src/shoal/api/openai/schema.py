"""The bodies of OpenAI's requests, as far as they mean something here.

Unknown fields are ignored, as clients send many. Fields that would change the answer and cannot be served are
named, so that they can be refused with a reason. Ranges are those of :class:`~shoal.types.Sampling`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from shoal.types import Penalty, Probability, RepetitionPenalty, Temperature, TopP

Positive = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
TokenNumber = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
NonEmpty = Annotated[str, msgspec.Meta(min_length=1)]
Bias = Annotated[float, msgspec.Meta(ge=-100, le=100)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
FunctionName = Annotated[str, msgspec.Meta(pattern="^[a-zA-Z0-9_-]{1,64}$")]
CallId = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


_DIGITS = msgspec.Meta(extra_json_schema={"propertyNames": {"pattern": "^[0-9]+$"}})


class Body(msgspec.Struct, kw_only=True, frozen=True):
    """Null means the same as leaving a field out."""


class StreamOptions(Body, kw_only=True, frozen=True):
    include_usage: bool | None = None


class JsonSchema(Body, kw_only=True, frozen=True):
    schema: dict[str, Any]


class JsonSchemaFormat(Body, kw_only=True, frozen=True, tag_field="type", tag="json_schema"):
    json_schema: JsonSchema


class JsonObjectFormat(Body, kw_only=True, frozen=True, tag_field="type", tag="json_object"):
    pass


class TextFormat(Body, kw_only=True, frozen=True, tag_field="type", tag="text"):
    pass


class StructuredOutputs(Body, kw_only=True, frozen=True):
    """vLLM's extension: exactly one of them."""

    json: dict[str, Any] | None = None
    regex: str | None = None
    grammar: str | None = None  # in Lark's notation


class GenerateBody(Body, kw_only=True, frozen=True):
    """What chats and completions share."""

    model: Name
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, msgspec.Meta(ge=1)] | None = None
    seed: Int64 | None = None
    max_tokens: Positive | None = None
    stop: str | list[str] | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[dict[TokenNumber, Bias], _DIGITS] | None = None
    response_format: JsonSchemaFormat | JsonObjectFormat | TextFormat | None = None
    # named as vLLM names them
    top_k: Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)] | None = None  # 0 and -1: off
    min_p: Probability | None = None
    repetition_penalty: RepetitionPenalty | None = None
    ignore_eos: bool | None = None
    structured_outputs: StructuredOutputs | None = None


class ContentPart(Body, kw_only=True, frozen=True):
    type: str
    text: str | None = None


class CalledFunction(Body, kw_only=True, frozen=True):
    name: FunctionName
    arguments: str  # JSON as the model wrote it


class CallBody(Body, kw_only=True, frozen=True):
    """A call that an earlier answer asked for."""

    id: CallId
    type: Literal["function"] = "function"
    function: CalledFunction


class MessageBody(Body, kw_only=True, frozen=True):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    tool_calls: list[CallBody] | None = None  # of an assistant
    tool_call_id: CallId | None = None  # of a tool: the call that this is the result of


class FunctionBody(Body, kw_only=True, frozen=True):
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None  # a JSON schema; none: the function has no parameters
    strict: bool | None = None  # refuse schemas that cannot be held to the letter


class ToolBody(Body, kw_only=True, frozen=True):
    type: Literal["function"]
    function: FunctionBody


class NamedFunction(Body, kw_only=True, frozen=True):
    name: FunctionName


class NamedTool(Body, kw_only=True, frozen=True):
    type: Literal["function"]
    function: NamedFunction


class ChatBody(GenerateBody, kw_only=True, frozen=True):
    messages: Annotated[list[MessageBody], msgspec.Meta(min_length=1)]
    max_completion_tokens: Positive | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    tools: list[ToolBody] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    # refused unless they ask for nothing
    functions: list[Any] | None = None
    modalities: list[str] | None = None
    audio: Any = None


class CompletionBody(GenerateBody, kw_only=True, frozen=True):
    prompt: NonEmpty | Annotated[list[NonEmpty | TokenNumber | list[TokenNumber]], msgspec.Meta(min_length=1)]
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    # refused unless they ask for nothing
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None


class EmbeddingBody(Body, kw_only=True, frozen=True):
    model: Name
    input: NonEmpty | Annotated[list[NonEmpty | int | list[int]], msgspec.Meta(min_length=1)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None
