"""Requests that are answered later: order one, come back for its answer, or watch it being made."""

from __future__ import annotations

from functools import partial

from shoal.api.jobs import surface
from shoal.api.jobs.documents import JobBody, JobDocument
from shoal.api.jobs.inner import Surfaces
from shoal.api.openapi import EVENTS, READS_BODY, RUNNING, Content, Header, Operation
from shoal.api.routing import Route
from shoal.coordinator.jobs import Jobs
from shoal.errors import Conflict, Draining, EventsGone, InvalidRequest, NotFound


def routes(jobs: Jobs, surfaces: Surfaces) -> list[Route]:
    """``surfaces``: those whose requests can be jobs."""
    one = f"{surface.JOBS}/{{id}}"
    return [
        Route("POST", surface.JOBS, partial(surface.create, jobs, surfaces), _CREATE),
        Route("GET", one, partial(surface.read, jobs), _READ),
        Route("DELETE", one, partial(surface.remove, jobs), _REMOVE),
        Route("GET", f"{one}/events", partial(surface.follow, jobs), _FOLLOW),
    ]


_CREATE = Operation(
    "Order a request that is answered later",
    {202: (Content(JobDocument),)},
    body=(Content(JobBody),),
    errors=(*READS_BODY, Conflict, Draining),
    headers=(*RUNNING, Header("idempotency-key", "The same key orders the same job once")),
)
_READ = Operation("How a job is doing, and its answer", {200: (Content(JobDocument),)}, errors=(NotFound,))
_REMOVE = Operation("Cancel a job, or forget its answer", {200: (Content(JobDocument),)}, errors=(NotFound,))
_FOLLOW = Operation(
    "The events of a job, as they come",
    {200: (Content(media=EVENTS),), 204: ()},
    errors=(InvalidRequest, NotFound, EventsGone),
    headers=(Header("last-event-id", "The last event that the reader has: the answer goes on behind it"),),
)
