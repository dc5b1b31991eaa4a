"""Errors in OpenAI's shape, with what OpenAI's lacks: whose fault it was, whether to retry, and the request id."""

from __future__ import annotations

import msgspec

from shoal.errors import Fault, ShoalError

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


def error_body(error: ShoalError, request_id: str) -> bytes:
    kind = TYPES[error.fault]
    body = ErrorBody(error.message, kind, error.param, error.code, error.fault, error.retryable, request_id)
    return _encode(ErrorAnswer(body))
