"""The bodies of the jobs' surface. A request and its response are written as in OpenAI's batches."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec

from shoal.api.openai.errors import error_body
from shoal.coordinator.job import Job, Result

encode = msgspec.json.Encoder().encode


class JobBody(msgspec.Struct, frozen=True, kw_only=True):
    url: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]  # such as /v1/chat/completions
    body: msgspec.Raw  # what would be posted there
    method: Literal["POST"] | None = None


class Response(msgspec.Struct, frozen=True):
    """What the surface answered."""

    status_code: int
    request_id: str
    body: msgspec.Raw


class JobDocument(msgspec.Struct, frozen=True, kw_only=True):
    """Times are seconds since 1970."""

    object: Literal["job"] = "job"
    request_id: str
    url: str
    state: str
    created_at: int
    started_at: int | None
    finished_at: int | None
    response: Response | None  # of a job that succeeded or failed


def document(job: Job) -> bytes:
    return encode(
        JobDocument(
            request_id=job.id,
            url=job.order.url,
            state=job.state,
            created_at=math.floor(job.created),
            started_at=_whole(job.started),
            finished_at=_whole(job.finished),
            response=_response(job),
        )
    )


def _response(job: Job) -> Response | None:
    match job.outcome:
        case None:
            return None
        case Result(status, body):
            return Response(status, job.id, msgspec.Raw(body))
        case error:
            return Response(error.status, job.id, msgspec.Raw(error_body(error, job.id)))


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else math.floor(seconds)
