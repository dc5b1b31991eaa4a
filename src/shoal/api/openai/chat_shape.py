"""What a generation means to a client of the chat: whole, or as deltas."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from msgspec import UNSET

from shoal.api.openai.answers import (
    AssistantMessage,
    CallAnswer,
    CallDelta,
    CalledFunction,
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatFinish,
    ChatLogprobs,
    ContentLogprob,
    Delta,
    DeltaChoice,
    FunctionDelta,
    UsageBody,
    encode,
    event,
)
from shoal.api.openai.generation import Choice, Plan
from shoal.api.openai.schema import ChatBody
from shoal.api.openai.tool_parser import Arguments, CallBegan, Part, Text, ToolCallParser
from shoal.messages import Chunk
from shoal.types import ChatPrompt, FinishReason, TokenLogprob, Usage


class ChatShape:
    """Answers as ``chat.completion`` and ``chat.completion.chunk``."""

    def __init__(self, body: ChatBody, planned: Plan, request_id: str, *, created: int) -> None:
        self._id = f"chatcmpl-{request_id}"
        self._request_id = request_id
        self._created = created
        self._model = body.model
        self._logprobs = bool(body.logprobs)
        self._no_usage = None if body.stream_options and body.stream_options.include_usage else UNSET
        prompt = planned.requests[0].prompt
        self._tools = isinstance(prompt, ChatPrompt) and bool(prompt.tools)  # may it call any?
        self._parsers: dict[int, ToolCallParser] = {}  # of the choices whose role was sent

    def events(self, index: int, chunk: Chunk) -> bytes:
        role = b""
        if index not in self._parsers:
            self._parsers[index] = ToolCallParser()
            # Whether it will have a content is not known while it may have calls.
            role = self._event(DeltaChoice(index, Delta(role="assistant", content=None if self._tools else "")))
        deltas = self._deltas(index, chunk)
        if not deltas and not chunk.logprobs and chunk.finish_reason is None:
            return role
        return role + self._events(index, deltas or [Delta()], chunk)

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

    # -- a stream

    def _deltas(self, index: int, chunk: Chunk) -> list[Delta]:
        if not self._tools:
            return [Delta(content=chunk.text)] if chunk.text else []
        parser = self._parsers[index]
        parts = parser.feed(chunk.text)
        if chunk.finish_reason is not None:
            parts += parser.finish()
        return [self._delta(index, part) for part in parts]

    def _delta(self, index: int, part: Part) -> Delta:
        match part:
            case Text(text):
                return Delta(content=text)
            case CallBegan(call, name):
                function = FunctionDelta("", name)
                return Delta(tool_calls=[CallDelta(call, function, self._call_id(index, call), "function")])
            case Arguments(call, text):
                return Delta(tool_calls=[CallDelta(call, FunctionDelta(text))])

    def _events(self, index: int, deltas: Sequence[Delta], chunk: Chunk) -> bytes:
        """The logprobs go with the first, the reason to finish with the last."""
        last = len(deltas) - 1
        reason = _reason(chunk.finish_reason, self._parsers[index])
        logprobs = self._chat_logprobs(chunk.logprobs) if chunk.logprobs else None
        return b"".join(
            self._event(DeltaChoice(index, delta, None if at else logprobs, reason if at == last else None))
            for at, delta in enumerate(deltas)
        )

    def _event(self, choice: DeltaChoice) -> bytes:
        return event(
            ChatCompletionChunk(
                id=self._id, created=self._created, model=self._model, choices=[choice], usage=self._no_usage
            )
        )

    # -- a whole answer

    def _choice(self, index: int, choice: Choice) -> ChatChoice:
        parser = ToolCallParser()
        text = "".join(choice.text)
        parts = [*parser.feed(text), *parser.finish()] if self._tools else [Text(text)]
        calls = self._calls(index, parts)
        content = "".join(part.text for part in parts if isinstance(part, Text))
        message = AssistantMessage(content=None if calls and not content else content, tool_calls=calls or UNSET)
        reason = _reason(choice.finish_reason, parser)
        return ChatChoice(index, message, self._chat_logprobs(choice.logprobs), reason)

    def _calls(self, index: int, parts: Sequence[Part]) -> list[CallAnswer]:
        names = [part.name for part in parts if isinstance(part, CallBegan)]
        arguments = [""] * len(names)
        for part in parts:
            if isinstance(part, Arguments):
                arguments[part.call] += part.text
        return [
            CallAnswer(id=self._call_id(index, call), function=CalledFunction(name, arguments[call]))
            for call, name in enumerate(names)
        ]

    def _call_id(self, index: int, call: int) -> str:
        """The same whoever answers the request, so that an answer can go on elsewhere."""
        return "call_" + hashlib.sha256(f"{self._request_id}:{index}:{call}".encode()).hexdigest()[:24]

    def _chat_logprobs(self, logprobs: Sequence[TokenLogprob]) -> ChatLogprobs | None:
        return ChatLogprobs([ContentLogprob.of(token) for token in logprobs]) if self._logprobs else None


def _reason(reason: FinishReason | None, parser: ToolCallParser) -> ChatFinish | None:
    if reason is FinishReason.STOP and parser.calls and not parser.open:
        return "tool_calls"
    return reason
