"""Every way a request can fail, each with the sentence a user needs.

One short tree. An error knows its stable ``code``, the HTTP ``status`` it maps to, whose ``fault`` it is and
whether asking again can help; the surfaces only format it. It crosses a process as an :class:`ErrorInfo`,
never as a pickled exception.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

import msgspec

Fault = Literal["client", "server", "capacity"]

MAX_MESSAGE = 2000  # characters: an error quotes its cause, it does not carry it whole


class ErrorInfo(msgspec.Struct, frozen=True, array_like=True):
    """An error on the wire."""

    code: str
    message: str
    param: str | None = None  # the field that was wrong
    retry_after: Annotated[float, msgspec.Meta(ge=0, le=86_400)] | None = None  # seconds


class ShoalError(Exception):
    """Something went wrong inside the server."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    fault: ClassVar[Fault] = "server"
    retryable: ClassVar[bool] = False  # may another worker be tried, before anything was sent to the client?

    def __init__(
        self, message: str | None = None, *, param: str | None = None, retry_after: float | None = None
    ) -> None:
        text = message or (type(self).__doc__ or type(self).__name__).split("\n", 1)[0]
        self.message = text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"
        self.param = param
        self.retry_after = retry_after
        super().__init__(self.message)

    def to_info(self) -> ErrorInfo:
        return ErrorInfo(self.code, self.message, self.param, self.retry_after)


class InvalidRequest(ShoalError):
    """The request is not valid."""

    code = "invalid_request"
    status = 400
    fault = "client"


class ContextLengthExceeded(InvalidRequest):
    """The prompt is longer than the model's context."""

    code = "context_length_exceeded"


class PayloadTooLarge(InvalidRequest):
    """The request is larger than this server accepts."""

    code = "payload_too_large"
    status = 413


class NotFound(InvalidRequest):
    """There is nothing at this address."""

    code = "not_found"
    status = 404


class ModelNotFound(NotFound):
    """No such model."""

    code = "model_not_found"


class EventsGone(InvalidRequest):
    """These events are no longer kept."""

    code = "events_gone"
    status = 410


class Forbidden(InvalidRequest):
    """This is not permitted."""

    code = "forbidden"
    status = 403


class Conflict(InvalidRequest):
    """The request does not fit the present state."""

    code = "conflict"
    status = 409


class MethodNotAllowed(InvalidRequest):
    """This address does not answer to that method."""

    code = "method_not_allowed"
    status = 405


class RequestTimeout(InvalidRequest):
    """The client was too slow to send its request."""

    code = "request_timeout"
    status = 408


class HeadersTooLarge(InvalidRequest):
    """The headers are more than this server reads."""

    code = "request_headers_too_large"
    status = 431


class Overloaded(ShoalError):
    """The server is at its limit; try again later."""

    code = "overloaded"
    status = 429
    fault = "capacity"
    retryable = True


class Cancelled(ShoalError):
    """The request was cancelled."""

    code = "cancelled"
    status = 499
    fault = "client"


class DeadlineExceeded(ShoalError):
    """The request did not finish within its deadline."""

    code = "deadline_exceeded"
    status = 504


class ModelUnavailable(ShoalError):
    """No worker can serve this model now."""

    code = "model_unavailable"
    status = 503
    retryable = True


class ModelLoadFailed(ModelUnavailable):
    """The model could not be loaded."""

    code = "model_load_failed"


class WorkerLost(ShoalError):
    """The worker went away while it had the request."""

    code = "worker_lost"
    status = 503
    retryable = True


class Draining(ShoalError):
    """This process is leaving and takes no new requests."""

    code = "draining"
    status = 503
    retryable = True


class EngineFailed(ShoalError):
    """The engine failed while it ran the model."""

    code = "engine_failed"
    retryable = True


class ProtocolError(ShoalError):
    """The other side broke the wire protocol."""

    code = "protocol_error"


class ConfigError(ShoalError):
    """The configuration is not valid."""

    code = "config_error"
    fault = "client"


def _tree(root: type[ShoalError]) -> dict[str, type[ShoalError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


CODES = _tree(ShoalError)


def from_info(info: ErrorInfo) -> ShoalError:
    """Rebuild an error that came over the wire; a code this version does not know is a server error."""
    kind = CODES.get(info.code, ShoalError)
    return kind(info.message, param=info.param, retry_after=info.retry_after)


_AT = re.compile(r" - at (?:`key` in )?`\$\.?(?P<path>.*)`$", re.DOTALL)
_MISSING = re.compile(r"missing required field `(?P<field>[^`]+)`")


def located(error: msgspec.ValidationError) -> tuple[str, str]:
    """``Expected `str`, got `int` - at `$.messages[0].role``` as the field ``messages[0].role`` and the rest.

    The field is empty when it is the whole that is wrong.
    """
    text = str(error)
    at = _AT.search(text)
    path = at["path"] if at else ""
    if missing := _MISSING.search(text):
        path = f"{path}.{missing['field']}" if path else missing["field"]
    return path, text[: at.start()] if at else text


def invalid(error: msgspec.ValidationError, what: str = "the body") -> InvalidRequest:
    """The same as an error whose param is the field. ``what`` was read is named when there is no field."""
    field, reason = located(error)
    return InvalidRequest(f"{field}: {reason}" if field else f"{what} is not valid: {reason}", param=field or None)
