"""A response of HTTP that is kept, and the client in its surface's eyes: one that never leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from shoal.api.asgi import AsgiMessage, Exchange, Header, Scope
from shoal.api.sse import data_of
from shoal.coordinator.kept_answer import KeptAnswer

Add = Callable[["KeptResponse", bytes], None]

#: What each response says anew.
_OWN = {b"content-type", b"content-length", b"connection", b"x-request-id", b"x-cache"}


class Head(NamedTuple):
    status: int
    media: bytes
    cache: str  # of the header x-cache
    headers: list[Header]  # all others

    @property
    def is_stream(self) -> bool:
        return self.media.startswith(b"text/event-stream")


class KeptResponse(KeptAnswer[bytes]):
    """Its parts are the data of the events of a stream, or the pieces of a body. ``head`` comes before the first."""

    def __init__(self, exchange: Exchange, *, scope: str, key: str, digest: bytes) -> None:
        super().__init__(scope, len, tenant=exchange.tenant, key=key, digest=digest)
        self.path = exchange.path
        self.request_id = exchange.request_id
        self.head: Head | None = None


class Recorder:
    """Asks a surface for a response, with ``body``; ``add`` gets each part of it."""

    def __init__(self, kept: KeptResponse, exchange: Exchange, body: bytes, add: Add) -> None:
        self.scope = _scope(exchange, len(body))
        self._kept = kept
        self._body: bytes | None = body
        self._add = add

    async def receive(self) -> AsgiMessage:
        if self._body is None:
            await asyncio.Event().wait()  # this client never leaves; who makes the answer is cancelled instead
        body, self._body = self._body, None
        return {"type": "http.request", "body": body}

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._kept.head = head = _head(message)
            self._kept.named = head.is_stream
        elif message["type"] == "http.response.body" and message["body"]:
            assert self._kept.head is not None
            for part in data_of(message["body"]) if self._kept.head.is_stream else [bytes(message["body"])]:
                self._add(self._kept, part)


def _head(message: dict[str, Any]) -> Head:
    headers = dict(message["headers"])
    rest = [(name, value) for name, value in headers.items() if name not in _OWN]
    return Head(message["status"], headers.get(b"content-type", b""), headers.get(b"x-cache", b"").decode(), rest)


def _scope(exchange: Exchange, size: int) -> Scope:
    own = {
        b"content-length": str(size).encode(),
        b"x-request-id": exchange.request_id.encode(),
        b"traceparent": exchange.trace.encode(),
    }
    return {**exchange.scope, "headers": list({**dict(exchange.scope["headers"]), **own}.items()), "extensions": {}}
