"""Every error becomes an answer here, in the shape that the clients of its surface expect."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import msgspec

from shoal.api.asgi import Exchange, Header
from shoal.api.open_inference import errors as open_inference
from shoal.api.openai import errors as openai
from shoal.errors import Cancelled, Overloaded, ShoalError

LEAST_PAUSE = 1.0  # seconds that a full server asks for where nobody knows better


async def answer_error(exchange: Exchange, error: ShoalError, *, headers: Sequence[Header] = ()) -> None:
    """Answer with the error, or end a stream with it when its status is already sent. Raises no ShoalError."""
    exchange.failed = True
    body = error_body(exchange.path, error, exchange.request_id)
    with contextlib.suppress(Cancelled):  # nobody reads what is sent: there is nobody to tell
        if exchange.started:
            if exchange.keeps_whole:
                await exchange.keep_whole(error.status, body)
            await exchange.end_events(b"data: " + body + b"\n\n")
        else:
            await exchange.answer(error.status, body, headers=[*retry_headers(error), *headers])


def error_body(path: str, error: ShoalError, request_id: str) -> bytes:
    if is_open_inference(path):
        return open_inference.error_body(error, request_id)
    return openai.error_body(error, request_id)


def error_type(path: str) -> type[msgspec.Struct]:
    """What describes the errors at this path."""
    return open_inference.InferenceError if is_open_inference(path) else openai.ErrorAnswer


def is_open_inference(path: str) -> bool:
    return path == "/v2" or path.startswith("/v2/")


def retry_headers(error: ShoalError) -> list[Header]:
    # OpenAI's clients obey x-should-retry before they look at the status.
    headers = [(b"x-should-retry", b"true" if error.retryable else b"false")]
    after = LEAST_PAUSE if error.retry_after is None and isinstance(error, Overloaded) else error.retry_after
    if after is not None:
        seconds = max(1, math.ceil(after))  # HTTP has whole seconds only; 0 would mean at once
        headers.append((b"retry-after", str(seconds).encode()))
    return headers
