"""OpenTelemetry's semantic conventions for generative AI, as attributes of a request's span."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from shoal.messages import Answer, Chunk, Generate, Infer
from shoal.telemetry.tracing import Span
from shoal.types import ChatPrompt, ModelId

R = TypeVar("R", bound=Generate | Infer)


def caused(request: R, span: Span) -> R:
    """The request as a child of the span."""
    return request if request.trace == span.trace else msgspec.structs.replace(request, trace=span.trace)


def operation(request: Generate | Infer) -> str:
    if isinstance(request, Infer):
        return "infer"
    return "chat" if isinstance(request.prompt, ChatPrompt) else "text_completion"


def describe(span: Span, request: Generate | Infer, model: ModelId) -> None:
    """What was asked, of which model."""
    if not span.is_recorded:
        return
    span.set("gen_ai.operation.name", operation(request))
    span.set("gen_ai.request.model", request.model)
    span.set("gen_ai.response.model", str(model))
    span.set("shoal.request_id", request.request_id)
    if not isinstance(request, Generate):
        return
    sampling = request.sampling
    span.set("gen_ai.request.temperature", sampling.temperature)
    span.set("gen_ai.request.top_p", sampling.top_p)
    if sampling.max_tokens is not None:
        span.set("gen_ai.request.max_tokens", sampling.max_tokens)
    if sampling.seed is not None:
        span.set("gen_ai.request.seed", sampling.seed)


def conclude(span: Span, answer: Answer) -> None:
    """How a generation ended, with its last part."""
    if not isinstance(answer, Chunk) or answer.finish_reason is None:
        return
    span.set("gen_ai.response.finish_reasons", (answer.finish_reason,))
    if answer.usage is not None:
        span.set("gen_ai.usage.input_tokens", answer.usage.prompt_tokens)
        span.set("gen_ai.usage.output_tokens", answer.usage.completion_tokens)
