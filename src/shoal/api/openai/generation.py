"""What chats and completions share: run one or more generations and answer with them, whole or as events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

from shoal.api.asgi import Exchange
from shoal.api.limits import ApiLimits
from shoal.api.openai.fanout import merge
from shoal.api.openai.parameters import with_sample
from shoal.api.openai.schema import GenerateBody
from shoal.api.plane import Plane
from shoal.coordinator.admission import Place
from shoal.errors import InvalidRequest
from shoal.messages import Chunk, Generate
from shoal.types import FinishReason, Grammar, ModelName, Prompt, RequestId, Sampling, TokenLogprob, Usage

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Plan:
    """The generations of one request: choice ``i`` is sample ``i % samples`` of prompt ``i // samples``."""

    requests: tuple[Generate, ...]
    samples: int
    stream: bool
    include_usage: bool


@dataclass(slots=True)
class Choice:
    """One generation, collected."""

    text: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def add(self, chunk: Chunk) -> None:
        self.text.append(chunk.text)
        self.logprobs += chunk.logprobs
        self.finish_reason = chunk.finish_reason or self.finish_reason


class Collected:
    """What all choices have said so far."""

    def __init__(self, planned: Plan) -> None:
        self.choices = [Choice() for _ in planned.requests]
        self._samples = planned.samples
        self._usages: dict[int, Usage] = {}

    def add(self, index: int, chunk: Chunk, *, text: bool = True) -> None:
        if text:
            self.choices[index].add(chunk)
        if chunk.usage is not None:
            self._usages[index] = chunk.usage

    @property
    def usage(self) -> Usage:
        return total(self._usages, self._samples)


class Shape(Protocol):
    """How one kind of request is answered. Whole events and bodies, encoded."""

    def events(self, index: int, chunk: Chunk) -> bytes:
        """What the chunk means to the client; empty when it means nothing yet."""
        ...

    def usage_event(self, usage: Usage) -> bytes: ...

    def whole(self, choices: Sequence[Choice], usage: Usage) -> bytes: ...


def plan(
    body: GenerateBody,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    grammar: Grammar | None,
    *,
    request_id: str,
    limits: ApiLimits,
) -> Plan:
    """Raises :class:`InvalidRequest` for more generations than one request may ask for."""
    samples = body.n or 1
    if samples > limits.samples:
        raise InvalidRequest(f"n: at most {limits.samples}", param="n")
    if samples * len(prompts) > limits.choices:
        raise InvalidRequest(f"prompt: at most {limits.choices} prompts times n", param="prompt")
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("stream_options is only for streams", param="stream_options")
    wanted = [(prompt, with_sample(sampling, sample)) for prompt in prompts for sample in range(samples)]
    requests = tuple(
        Generate(
            RequestId(request_id if len(wanted) == 1 else f"{request_id}-{index}"),
            ModelName(body.model),
            prompt,
            sampling,
            grammar,
            group=request_id if len(wanted) > 1 else "",
        )
        for index, (prompt, sampling) in enumerate(wanted)
    )
    options = body.stream_options
    return Plan(requests, samples, bool(body.stream), bool(options and options.include_usage))


async def run(exchange: Exchange, plane: Plane, planned: Plan, shape: Shape) -> None:
    """Generate and answer. Whatever ends it early, the client's leaving included, ends every generation."""
    if planned.stream or exchange.keeps_whole:
        await _stream(exchange, plane, planned, shape)
    else:
        await _whole(exchange, plane, planned, shape)


async def _stream(exchange: Exchange, plane: Plane, planned: Plan, shape: Shape) -> None:
    answer = Collected(planned)
    requests = [exchange.stamp(request) for request in planned.requests]
    with exchange.client_watch(), plane.together(requests) as places:
        async with aclosing(merge(_streams(exchange, plane, requests, places))) as chunks:
            async for index, chunk in chunks:
                answer.add(index, chunk, text=exchange.keeps_whole)
                if events := shape.events(index, chunk):
                    await exchange.send_events(events)
    tail = shape.usage_event(answer.usage) if planned.include_usage else b""
    if exchange.keeps_whole:
        await exchange.keep_whole(200, shape.whole(answer.choices, answer.usage))
    await exchange.end_events(tail + DONE)


async def _whole(exchange: Exchange, plane: Plane, planned: Plan, shape: Shape) -> None:
    answer = Collected(planned)
    requests = [exchange.stamp(request) for request in planned.requests]
    with exchange.client_watch(), plane.together(requests) as places:
        async with aclosing(merge(_streams(exchange, plane, requests, places))) as chunks:
            async for index, chunk in chunks:
                answer.add(index, chunk)
    await exchange.answer(200, shape.whole(answer.choices, answer.usage))


def _streams(
    exchange: Exchange, plane: Plane, requests: Sequence[Generate], places: Sequence[Place | None]
) -> list[AsyncGenerator[Chunk, None]]:
    timeout = exchange.timeout
    return [
        plane.generate(request, timeout=timeout, place=place) for request, place in zip(requests, places, strict=True)
    ]


def total(usages: dict[int, Usage], samples: int) -> Usage:
    """The usage of a request: a prompt counts once however many samples it has, and its cached part is what no
    sample had to compute."""
    prompts: dict[int, list[Usage]] = {}
    for index, usage in usages.items():
        prompts.setdefault(index // samples, []).append(usage)
    return Usage(
        prompt_tokens=sum(group[0].prompt_tokens for group in prompts.values()),
        completion_tokens=sum(usage.completion_tokens for usage in usages.values()),
        cached_tokens=sum(min(usage.cached_tokens for usage in group) for group in prompts.values()),
    )
