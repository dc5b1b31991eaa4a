"""A request to a surface without a connection: the same application answers it, called in this process.

There is one implementation of every surface; a job is a client of it that never leaves, keeps the whole answer as
well as the events of its making, and asks again later where a client would be told 429.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Any, Protocol

from shoal.api.asgi import JSON, WHOLE, AsgiMessage, Header, Receive, Scope, Send
from shoal.api.routing import Route
from shoal.api.sse import data_of
from shoal.clock import now
from shoal.coordinator.job import Job, Result
from shoal.coordinator.jobs import Tell, Work
from shoal.errors import InvalidRequest, Overloaded

MAX_PAUSE = 15.0  # seconds between two attempts at a full server, beside those that it asks for


class Surfaces(Protocol):
    """An ASGI application that says what it serves."""

    def find(self, method: str, path: str) -> Route:
        """Raises :class:`~shoal.errors.NotFound`, :class:`~shoal.errors.MethodNotAllowed`."""
        ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


def asking(surfaces: Surfaces, headers: Mapping[bytes, bytes], client: str = "") -> Work:
    """The work of a job: ask the surface of its order, until there is room. ``headers`` go with every attempt;
    ``client`` is the address of who ordered it."""

    async def work(job: Job, tell: Tell) -> Result:
        pause = 1.0
        while True:
            call = InnerCall(job, headers, tell, client)
            await surfaces(call.scope, call.receive, call.send)
            if call.status != Overloaded.status:
                return call.result()
            # Jobs that were refused together come back apart.
            await asyncio.sleep(call.retry_after + pause * random.uniform(0.5, 1))
            pause = min(2 * pause, MAX_PAUSE)

    return work


class InnerCall:
    """One attempt, as an ASGI server would make it."""

    def __init__(self, job: Job, headers: Mapping[bytes, bytes], tell: Tell, client: str = "") -> None:
        self.status = 0
        self.retry_after = 0  # seconds, as the answer says
        self.scope: Scope = {
            "type": "http",
            "method": "POST",
            "path": job.order.url,
            "client": (client, 0),
            "headers": _headers(job, headers),
            "extensions": {WHOLE: {}},
        }
        self._body: bytes | None = job.order.body
        self._tell = tell
        self._type = b""
        self._answer: list[bytes] = []
        self._whole: Result | None = None

    async def receive(self) -> AsgiMessage:
        if self._body is None:
            await asyncio.Event().wait()  # this client never leaves; the job is cancelled instead
        body, self._body = self._body, None
        return {"type": "http.request", "body": body}

    async def send(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "http.response.start":
                self.status = message["status"]
                headers = dict(message["headers"])
                self._type = headers.get(b"content-type", b"")
                self.retry_after = int(headers.get(b"retry-after", 0))
            case "http.response.body" if self._type.startswith(b"text/event-stream"):
                for data in data_of(message["body"]):
                    self._tell(data)
            case "http.response.body":
                self._answer.append(message["body"])
            case "shoal.whole":
                self._whole = Result(message["status"], message["body"])

    def result(self) -> Result:
        """Raises :class:`InvalidRequest` for an answer that is not JSON."""
        if self._whole is not None:
            return self._whole
        if self._type != JSON:
            raise InvalidRequest("body: a job's answer is JSON; this request asks for another form", param="body")
        return Result(self.status, b"".join(self._answer))


def _headers(job: Job, given: Mapping[bytes, bytes]) -> list[Header]:
    own = {
        b"content-type": JSON,
        b"content-length": str(len(job.order.body)).encode(),
        b"x-request-id": job.id.encode(),
    }
    if job.order.deadline is not None:
        own[b"x-deadline-ms"] = str(max(1, round((job.order.deadline - now()) * 1000))).encode()
    return list({**given, **own}.items())
