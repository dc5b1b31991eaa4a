"""POST /v1/jobs; GET and DELETE /v1/jobs/{id}; GET /v1/jobs/{id}/events."""

from __future__ import annotations

from contextlib import aclosing

import msgspec

from shoal.api import sse
from shoal.api.asgi import NO_CONTENT, Exchange, Header
from shoal.api.idempotency import key_of
from shoal.api.jobs.documents import JobBody, document
from shoal.api.jobs.inner import Surfaces, asking
from shoal.api.openai.decode import parse
from shoal.clock import now
from shoal.coordinator.job import Job, Order
from shoal.coordinator.jobs import Jobs
from shoal.errors import InvalidRequest, MethodNotAllowed, NotFound

JOBS = "/v1/jobs"
POLL_AFTER = b"1"  # seconds until it is worth asking again
IDLE = 15.0  # seconds without an event until a reader is shown that the connection lives

_decoder = msgspec.json.Decoder(JobBody)


async def create(jobs: Jobs, surfaces: Surfaces, exchange: Exchange) -> None:
    body = parse(_decoder, await exchange.read_body())
    _check_url(surfaces, body.url)
    headers = {b"traceparent": exchange.trace.encode(), b"x-priority": str(exchange.priority).encode()}
    if exchange.tenant:
        headers[b"x-tenant"] = exchange.tenant.encode()
    job = jobs.submit(_order(body, exchange), asking(surfaces, headers, exchange.client))
    location = (b"location", f"{JOBS}/{job.id}".encode())
    await exchange.answer(202, document(job), headers=[location, *_poll_again(job)])


async def read(jobs: Jobs, exchange: Exchange) -> None:
    job = jobs.get(exchange.parameters["id"])
    await exchange.answer(200, document(job), headers=_poll_again(job))


async def remove(jobs: Jobs, exchange: Exchange) -> None:
    job = jobs.remove(exchange.parameters["id"])
    await exchange.answer(200, document(job))


async def follow(jobs: Jobs, exchange: Exchange) -> None:
    """The events behind the last that the client has; its leaving does not disturb the job."""
    job = jobs.get(exchange.parameters["id"])
    log = job.events.log
    seen = sse.number_of(exchange.header(sse.LAST_EVENT_ID), job.id, log.last)
    if log.closed and seen == log.last:
        await exchange.answer(NO_CONTENT, b"")  # an EventSource that is told this does not come again
        return
    log.after(seen)  # fails while there is still a status to tell it with
    with exchange.client_watch():
        await exchange.send_events(sse.RECONNECT)
        async with aclosing(job.events.follow(seen, idle=IDLE)) as pages:
            async for page in pages:
                await exchange.send_events(sse.write(job.id, page) or sse.KEEP_ALIVE)
    await exchange.end_events(b"")


def _order(body: JobBody, exchange: Exchange) -> Order:
    deadline = None if exchange.timeout is None else now() + exchange.timeout
    return Order(body.url, bytes(body.body), exchange.priority, deadline, key_of(exchange), exchange.tenant)


def _check_url(surfaces: Surfaces, url: str) -> None:
    try:
        surfaces.find("POST", url)
    except (NotFound, MethodNotAllowed) as error:
        raise InvalidRequest(f"url: {error.message}; a job posts to a model's surface", param="url") from None


def _poll_again(job: Job) -> list[Header]:
    return [] if job.final else [(b"retry-after", POLL_AFTER)]
