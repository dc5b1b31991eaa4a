"""Errors in the protocol's shape, one text, with what it lacks beside it."""

from __future__ import annotations

import msgspec

from shoal.errors import Fault, ShoalError


class InferenceError(msgspec.Struct, frozen=True):
    error: str
    code: str
    param: str | None
    fault: Fault
    retryable: bool
    request_id: str


_encode = msgspec.json.Encoder().encode


def error_body(error: ShoalError, request_id: str) -> bytes:
    return _encode(InferenceError(error.message, error.code, error.param, error.fault, error.retryable, request_id))
