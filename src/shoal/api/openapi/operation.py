"""What the published document says of one route."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from shoal.api.asgi import MAX_PRIORITY
from shoal.api.limits import ApiLimits
from shoal.errors import (
    Cancelled,
    ContextLengthExceeded,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    ModelUnavailable,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    RequestTimeout,
    ShoalError,
)

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"
BINARY: Final = "application/octet-stream"
TEXT: Final = "text/plain"

Errors = tuple[type[ShoalError], ...]

FINDS: Final[Errors] = (NotFound,)
READS_BODY: Final[Errors] = (InvalidRequest, PayloadTooLarge, RequestTimeout, Overloaded)
#: What everything that runs a model may end with.
RUNS: Final[Errors] = (
    *READS_BODY,
    ModelNotFound,
    ContextLengthExceeded,
    ModelUnavailable,
    DeadlineExceeded,
    Cancelled,
)


@dataclass(frozen=True, slots=True)
class Content:
    """A body of one media type. ``type`` is what msgspec knows how to describe; None: bytes of any kind."""

    type: Any = None
    media: str = JSON


@dataclass(frozen=True, slots=True)
class Header:
    """A request header that means something to a route. None is required."""

    name: str
    description: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})


#: Understood at every address.
REQUEST_ID: Final = Header("x-request-id", "Names the request in the answer, the logs and the traces")
#: Understood where a model runs.
RUNNING: Final = (
    Header(
        "x-deadline-ms",
        "The answer is wanted within so many milliseconds",
        {"type": "integer", "minimum": 1, "maximum": round(ApiLimits().deadline * 1000)},
    ),
    Header(
        "x-priority",
        "The higher, the sooner",
        {"type": "integer", "minimum": -MAX_PRIORITY, "maximum": MAX_PRIORITY},
    ),
    Header("x-tenant", "Who asks; from trusted proxies alone"),
    Header("traceparent", "W3C trace context of the caller's span"),
)


@dataclass(frozen=True, slots=True)
class Operation:
    """``answers`` maps a status to the bodies it may have; ``errors`` stand for their statuses, each with the error
    body of its surface. A failure of the server itself (500) is always possible and not listed."""

    summary: str
    answers: Mapping[int, tuple[Content, ...]]
    body: tuple[Content, ...] = ()
    body_required: bool = True
    errors: Errors = ()
    headers: tuple[Header, ...] = ()
