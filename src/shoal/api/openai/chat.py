"""POST /v1/chat/completions."""

from __future__ import annotations

import time

import msgspec

from shoal.api.asgi import Exchange
from shoal.api.limits import ApiLimits
from shoal.api.openai.chat_shape import ChatShape
from shoal.api.openai.decode import parse
from shoal.api.openai.generation import Plan, plan, run
from shoal.api.openai.parameters import sampling_of
from shoal.api.openai.schema import ChatBody, MessageBody
from shoal.api.openai.tools import check_results, tool_use
from shoal.api.plane import Plane
from shoal.errors import InvalidRequest
from shoal.types import ChatMessage, ChatPrompt, Sampling, ToolCall

_decoder = msgspec.json.Decoder(ChatBody)


async def create(plane: Plane, exchange: Exchange) -> None:
    body = parse(_decoder, await exchange.read_body())
    planned = plan_chat(body, request_id=exchange.request_id, limits=exchange.limits)
    await run(exchange, plane, planned, ChatShape(body, planned, exchange.request_id, created=int(time.time())))


def plan_chat(body: ChatBody, *, request_id: str, limits: ApiLimits) -> Plan:
    """Raises :class:`InvalidRequest` that names what cannot be served."""
    _refuse_unsupported(body)
    if len(body.messages) > limits.messages:
        raise InvalidRequest(f"messages: at most {limits.messages}", param="messages")
    check_results(body.messages)
    messages = tuple(_message(message, f"messages[{at}]") for at, message in enumerate(body.messages))
    use = tool_use(body, limits)
    prompt = ChatPrompt(messages, use.tools)
    return plan(body, [prompt], _sampling(body, limits), use.grammar, request_id=request_id, limits=limits)


def _refuse_unsupported(body: ChatBody) -> None:
    if body.audio is not None or any(modality != "text" for modality in body.modalities or ()):
        param = "audio" if body.audio is not None else "modalities"
        raise InvalidRequest(f"{param}: answers are text only", param=param)


def _sampling(body: ChatBody, limits: ApiLimits) -> Sampling:
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs to be true", param="top_logprobs")
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    if body.max_completion_tokens is None:
        return sampling_of(body, limits, max_tokens=body.max_tokens, logprobs=logprobs)
    return sampling_of(body, limits, max_tokens=body.max_completion_tokens, logprobs=logprobs)


def _message(message: MessageBody, param: str) -> ChatMessage:
    if message.role == "function":
        raise InvalidRequest(f"{param}.role: not supported any more, use tool", param=f"{param}.role")
    # Templates know "system" only; "developer" is its newer name.
    role = "system" if message.role == "developer" else message.role
    calls = tuple(ToolCall(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ())
    return ChatMessage(role, _content(message, param), calls, message.tool_call_id or "")


def _content(message: MessageBody, param: str) -> str:
    if isinstance(message.content, str):
        return message.content
    if not message.content:
        if message.tool_calls:
            return ""
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
    return "\n".join(texts)  # as vLLM and llama.cpp join them
