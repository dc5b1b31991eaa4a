"""POST /v1/chat/completions."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec
from msgspec import UNSET

from shoal.api.asgi import Exchange
from shoal.api.limits import ApiLimits
from shoal.api.openai.answers import (
    AssistantMessage,
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatLogprobs,
    ContentLogprob,
    Delta,
    DeltaChoice,
    UsageBody,
    encode,
    event,
)
from shoal.api.openai.decode import parse
from shoal.api.openai.generation import Choice, Job, plan, run
from shoal.api.openai.parameters import grammar_of, sampling_of
from shoal.api.openai.schema import ChatBody, MessageBody
from shoal.api.plane import Plane
from shoal.errors import InvalidRequest
from shoal.messages import Chunk
from shoal.types import ChatMessage, ChatPrompt, Sampling, TokenLogprob, Usage

_decoder = msgspec.json.Decoder(ChatBody)


async def create(plane: Plane, exchange: Exchange) -> None:
    body = parse(_decoder, await exchange.read_body())
    job = plan_chat(body, request_id=exchange.request_id, limits=exchange.limits)
    await run(exchange, plane, job, ChatShape(body, exchange.request_id, created=int(time.time())))


def plan_chat(body: ChatBody, *, request_id: str, limits: ApiLimits) -> Job:
    """Raises :class:`InvalidRequest` that names what cannot be served."""
    _refuse_unsupported(body)
    if len(body.messages) > limits.messages:
        raise InvalidRequest(f"messages: at most {limits.messages}", param="messages")
    messages = tuple(_message(message, f"messages[{at}]") for at, message in enumerate(body.messages))
    sampling = _sampling(body, limits)
    return plan(body, [ChatPrompt(messages)], sampling, grammar_of(body), request_id=request_id, limits=limits)


def _refuse_unsupported(body: ChatBody) -> None:
    if body.tools or body.functions or body.tool_choice not in (None, "none", "auto"):
        param = "tools" if body.tools else "functions" if body.functions else "tool_choice"
        raise InvalidRequest(f"{param}: tool calls are not supported", param=param)
    if body.audio is not None or any(modality != "text" for modality in body.modalities or ()):
        param = "audio" if body.audio is not None else "modalities"
        raise InvalidRequest(f"{param}: answers are text only", param=param)


def _sampling(body: ChatBody, limits: ApiLimits) -> Sampling:
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs to be true", param="top_logprobs")
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    if body.max_completion_tokens is None:
        return sampling_of(body, limits, max_tokens=body.max_tokens, logprobs=logprobs)
    if body.max_completion_tokens < 1:
        raise InvalidRequest("max_completion_tokens must be at least 1", param="max_completion_tokens")
    return sampling_of(body, limits, max_tokens=body.max_completion_tokens, logprobs=logprobs)


def _message(message: MessageBody, param: str) -> ChatMessage:
    if message.role in ("tool", "function") or message.tool_calls:
        field = "tool_calls" if message.tool_calls else "role"
        raise InvalidRequest(f"{param}.{field}: tool calls are not supported", param=f"{param}.{field}")
    # Templates know "system" only; "developer" is its newer name.
    role = "system" if message.role == "developer" else message.role
    if isinstance(message.content, str):
        return ChatMessage(role, message.content)
    if not message.content:
        raise InvalidRequest(f"{param}.content must not be empty", param=f"{param}.content")
    texts: list[str] = []
    for at, part in enumerate(message.content):
        if part.type != "text":
            where = f"{param}.content[{at}].type"
            raise InvalidRequest(f"{where}: only parts of type text are supported", param=where)
        if part.text is None:
            where = f"{param}.content[{at}].text"
            raise InvalidRequest(f"{where} is missing", param=where)
        texts.append(part.text)
    return ChatMessage(role, "\n".join(texts))  # as vLLM and llama.cpp join them


class ChatShape:
    """Answers as ``chat.completion`` and ``chat.completion.chunk``."""

    def __init__(self, body: ChatBody, request_id: str, *, created: int) -> None:
        self._id = f"chatcmpl-{request_id}"
        self._created = created
        self._model = body.model
        self._logprobs = bool(body.logprobs)
        self._no_usage = None if body.stream_options and body.stream_options.include_usage else UNSET
        self._begun: set[int] = set()  # choices whose role was sent

    def events(self, index: int, chunk: Chunk) -> bytes:
        role = b""
        if index not in self._begun:
            self._begun.add(index)
            role = self._event(DeltaChoice(index, Delta(role="assistant", content="")))
        if not chunk.text and not chunk.logprobs and chunk.finish_reason is None:
            return role
        delta = Delta(content=chunk.text or UNSET)
        return role + self._event(
            DeltaChoice(
                index, delta, self._chat_logprobs(chunk.logprobs) if chunk.logprobs else None, chunk.finish_reason
            )
        )

    def usage_event(self, usage: Usage) -> bytes:
        return event(
            ChatCompletionChunk(
                id=self._id, created=self._created, model=self._model, choices=[], usage=UsageBody.of(usage)
            )
        )

    def whole(self, choices: Sequence[Choice], usage: Usage) -> bytes:
        return encode(
            ChatCompletion(
                id=self._id,
                created=self._created,
                model=self._model,
                choices=[self._choice(index, choice) for index, choice in enumerate(choices)],
                usage=UsageBody.of(usage),
            )
        )

    def _event(self, choice: DeltaChoice) -> bytes:
        return event(
            ChatCompletionChunk(
                id=self._id, created=self._created, model=self._model, choices=[choice], usage=self._no_usage
            )
        )

    def _choice(self, index: int, choice: Choice) -> ChatChoice:
        message = AssistantMessage(content="".join(choice.text))
        return ChatChoice(index, message, self._chat_logprobs(choice.logprobs), choice.finish_reason)

    def _chat_logprobs(self, logprobs: Sequence[TokenLogprob]) -> ChatLogprobs | None:
        return ChatLogprobs([ContentLogprob.of(token) for token in logprobs]) if self._logprobs else None
