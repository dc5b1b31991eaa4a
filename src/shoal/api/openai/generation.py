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
from shoal.errors import InvalidRequest
from shoal.messages import Chunk, Generate
from shoal.types import FinishReason, Grammar, ModelName, Prompt, RequestId, Sampling, TokenLogprob, Usage

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Job:
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
) -> Job:
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
        )
        for index, (prompt, sampling) in enumerate(wanted)
    )
    options = body.stream_options
    return Job(requests, samples, bool(body.stream), bool(options and options.include_usage))


async def run(exchange: Exchange, plane: Plane, job: Job, shape: Shape) -> None:
    """Generate and answer. Whatever ends it early, the client's leaving included, ends every generation."""
    if job.stream:
        await _stream(exchange, plane, job, shape)
    else:
        await _whole(exchange, plane, job, shape)


async def _stream(exchange: Exchange, plane: Plane, job: Job, shape: Shape) -> None:
    usages: dict[int, Usage] = {}
    streams = _streams(exchange, plane, job)
    with exchange.client_watch():
        async with aclosing(merge(streams)) as chunks:
            async for index, chunk in chunks:
                if chunk.usage is not None:
                    usages[index] = chunk.usage
                if events := shape.events(index, chunk):
                    await exchange.send_events(events)
    tail = shape.usage_event(total(usages, job.samples)) if job.include_usage else b""
    await exchange.end_events(tail + DONE)


async def _whole(exchange: Exchange, plane: Plane, job: Job, shape: Shape) -> None:
    choices = [Choice() for _ in job.requests]
    usages: dict[int, Usage] = {}
    streams = _streams(exchange, plane, job)
    with exchange.client_watch():
        async with aclosing(merge(streams)) as chunks:
            async for index, chunk in chunks:
                choices[index].add(chunk)
                if chunk.usage is not None:
                    usages[index] = chunk.usage
    await exchange.answer(200, shape.whole(choices, total(usages, job.samples)))


def _streams(exchange: Exchange, plane: Plane, job: Job) -> list[AsyncGenerator[Chunk, None]]:
    timeout = exchange.timeout
    return [plane.generate(exchange.stamp(request), timeout=timeout) for request in job.requests]


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
