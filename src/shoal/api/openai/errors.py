"""Errors in OpenAI's shape, with what OpenAI's lacks: whose fault it was, whether to retry, and the request id."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import msgspec

from shoal.api.asgi import Exchange, Header
from shoal.errors import Cancelled, Fault, ShoalError

TYPES: dict[Fault, str] = {
    "client": "invalid_request_error",
    "capacity": "rate_limit_error",
    "server": "server_error",
}


class ErrorBody(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str
    fault: Fault
    retryable: bool
    request_id: str


class ErrorAnswer(msgspec.Struct, frozen=True):
    error: ErrorBody


_encode = msgspec.json.Encoder().encode


async def answer_error(exchange: Exchange, error: ShoalError, *, headers: Sequence[Header] = ()) -> None:
    """Answer with the error, or end a stream with it when its status is already sent. Raises no ShoalError."""
    body = error_body(error, exchange.request_id)
    with contextlib.suppress(Cancelled):  # nobody reads what is sent: there is nobody to tell
        if exchange.started:
            if exchange.keeps_whole:
                await exchange.keep_whole(error.status, body)
            await exchange.end_events(b"data: " + body + b"\n\n")
        else:
            await exchange.answer(error.status, body, headers=[*_retry_headers(error), *headers])


def error_body(error: ShoalError, request_id: str) -> bytes:
    kind = TYPES[error.fault]
    body = ErrorBody(error.message, kind, error.param, error.code, error.fault, error.retryable, request_id)
    return _encode(ErrorAnswer(body))


def _retry_headers(error: ShoalError) -> list[Header]:
    # OpenAI's clients obey x-should-retry before they look at the status.
    headers = [(b"x-should-retry", b"true" if error.retryable else b"false")]
    if error.retry_after is not None:
        seconds = max(1, math.ceil(error.retry_after))  # HTTP has whole seconds only; 0 would mean at once
        headers.append((b"retry-after", str(seconds).encode()))
    return headers
