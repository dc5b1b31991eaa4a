"""POST /v1/completions: text goes on where the prompt ends."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec
from msgspec import UNSET

from shoal.api.asgi import Exchange
from shoal.api.limits import ApiLimits
from shoal.api.openai.answers import (
    TextChoice,
    TextCompletion,
    TextLogprobs,
    UsageBody,
    encode,
    event,
    finite,
    token_text,
)
from shoal.api.openai.decode import parse
from shoal.api.openai.generation import Choice, Plan, plan, run
from shoal.api.openai.parameters import grammar_of, sampling_of
from shoal.api.openai.schema import CompletionBody
from shoal.api.plane import Plane
from shoal.errors import InvalidRequest
from shoal.messages import Chunk
from shoal.types import Prompt, TextPrompt, TokenLogprob, TokenPrompt, Usage

MAX_TOKENS = 16  # OpenAI's default for this call, unlike for chats

_decoder = msgspec.json.Decoder(CompletionBody)


async def create(plane: Plane, exchange: Exchange) -> None:
    body = parse(_decoder, await exchange.read_body())
    planned = plan_completion(body, request_id=exchange.request_id, limits=exchange.limits)
    await run(exchange, plane, planned, TextShape(body, exchange.request_id, created=int(time.time())))


def plan_completion(body: CompletionBody, *, request_id: str, limits: ApiLimits) -> Plan:
    """Raises :class:`InvalidRequest` that names what cannot be served."""
    if body.echo:
        raise InvalidRequest("echo is not supported", param="echo")
    if body.suffix:
        raise InvalidRequest("suffix is not supported", param="suffix")
    if body.best_of not in (None, 1):
        raise InvalidRequest("best_of is not supported", param="best_of")
    max_tokens = MAX_TOKENS if body.max_tokens is None else body.max_tokens
    sampling = sampling_of(body, limits, max_tokens=max_tokens, logprobs=body.logprobs)
    return plan(body, prompts_of(body), sampling, grammar_of(body), request_id=request_id, limits=limits)


def prompts_of(body: CompletionBody) -> list[Prompt]:
    """One prompt or several, as text or as tokens. Raises :class:`InvalidRequest`."""
    given = body.prompt
    if isinstance(given, str):
        return [_prompt(given, "prompt")]
    if all(isinstance(item, int) for item in given):
        given = [[item for item in given if isinstance(item, int)]]
    return [_prompt(item, f"prompt[{at}]") for at, item in enumerate(given)]


def _prompt(item: str | int | list[int], param: str) -> Prompt:
    if isinstance(item, int):
        raise InvalidRequest("prompt: token numbers and texts cannot be mixed in one list", param="prompt")
    if not item:
        raise InvalidRequest(f"{param} must not be empty", param=param)
    return TextPrompt(item) if isinstance(item, str) else TokenPrompt(tuple(item))


class TextShape:
    """Answers as ``text_completion``, whole and in chunks."""

    def __init__(self, body: CompletionBody, request_id: str, *, created: int) -> None:
        self._id = f"cmpl-{request_id}"
        self._created = created
        self._model = body.model
        self._wants_logprobs = body.logprobs is not None
        self._no_usage = None if body.stream_options and body.stream_options.include_usage else UNSET
        self._offsets: dict[int, int] = {}  # characters of the tokens that each choice has so far

    def events(self, index: int, chunk: Chunk) -> bytes:
        if not chunk.text and not chunk.logprobs and chunk.finish_reason is None:
            return b""
        logprobs = self._logprobs(index, chunk.logprobs) if chunk.logprobs else None
        return event(self._body([TextChoice(index, chunk.text, logprobs, chunk.finish_reason)], self._no_usage))

    def usage_event(self, usage: Usage) -> bytes:
        return event(self._body([], UsageBody.of(usage)))

    def whole(self, choices: Sequence[Choice], usage: Usage) -> bytes:
        self._offsets.clear()  # they count from the beginning, also where events have gone out before
        texts = [
            TextChoice(index, "".join(choice.text), self._logprobs(index, choice.logprobs), choice.finish_reason)
            for index, choice in enumerate(choices)
        ]
        return encode(self._body(texts, UsageBody.of(usage)))

    def _body(self, choices: list[TextChoice], usage: UsageBody | msgspec.UnsetType | None) -> TextCompletion:
        return TextCompletion(id=self._id, created=self._created, model=self._model, choices=choices, usage=usage)

    def _logprobs(self, index: int, logprobs: Sequence[TokenLogprob]) -> TextLogprobs | None:
        if not self._wants_logprobs:
            return None
        offsets: list[int] = []
        for token in logprobs:
            offset = self._offsets.get(index, 0)
            offsets.append(offset)
            self._offsets[index] = offset + characters(token.text)
        return TextLogprobs(
            tokens=[token_text(token.text) for token in logprobs],
            token_logprobs=[finite(token.logprob) for token in logprobs],
            top_logprobs=[_top(token) for token in logprobs],
            text_offset=offsets,
        )


def _top(token: TokenLogprob) -> dict[str, float]:
    """The likeliest and the chosen one, so up to one more than was asked for."""
    top = {token_text(text): finite(logprob) for _, text, logprob in token.top}
    return {**top, token_text(token.text): finite(token.logprob)}


def characters(text: bytes) -> int:
    """How many characters begin in ``text``: all bytes but UTF-8's continuation bytes."""
    return sum(byte & 0xC0 != 0x80 for byte in text)
