"""Requests whose clients can come back: the answer is made apart from the connection, and read from its log.

A client says that it can with an ``idempotency-key``, or with ``last-event-id``, which may be empty. Then each event of
a stream has an id, and whoever has it gets what follows: from the same address, with the same credentials.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from contextlib import aclosing, nullcontext
from dataclasses import replace
from functools import partial
from typing import Final, Protocol

from shoal.aio import Deadline
from shoal.api import sse
from shoal.api.asgi import Exchange, Receive, Scope, Send
from shoal.api.idempotency import IDEMPOTENCY_KEY, key_of, scope_of
from shoal.api.kept_response import KeptResponse, Recorder
from shoal.api.openapi import Header, Operation
from shoal.api.routing import Handler, Route
from shoal.coordinator.job import digest
from shoal.coordinator.keeper import Keeper
from shoal.errors import Conflict, DeadlineExceeded, EventsGone, InvalidRequest, ShoalError

_HEADERS: Final = (
    Header("idempotency-key", "The same request with the same key is answered once, and the same each time"),
    Header(
        "last-event-id",
        "The last event that the client has of a stream: what follows is sent. Empty at first: events shall have ids",
    ),
)


class Surfaces(Protocol):
    """An application, and what it serves."""

    @property
    def routes(self) -> Sequence[Route]: ...

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> Exchange: ...


class Keeping:
    def __init__(self, keeper: Keeper, surfaces: Surfaces) -> None:
        self._keeper = keeper
        self._surfaces = surfaces

    def routes(self) -> list[Route]:
        """Those of the surfaces; where a model runs, a client may come back."""
        return [self._kept(route) if route.computes else route for route in self._surfaces.routes]

    def _kept(self, route: Route) -> Route:
        operation = None if route.operation is None else _described(route.operation)
        return replace(route, handler=partial(self._serve, route.handler), operation=operation)

    def _serve(self, handler: Handler, exchange: Exchange) -> Awaitable[None]:
        seen = exchange.header(sse.LAST_EVENT_ID)
        if seen is None and exchange.header(IDEMPOTENCY_KEY) is None:
            return handler(exchange)
        return self._keep(exchange, seen)

    async def _keep(self, exchange: Exchange, seen: bytes | None) -> None:
        body = await exchange.read_body(limit=exchange.limits.tensor_bytes)
        if seen:
            name, number = sse.split(seen)
            await self._pass_on(exchange, self._resumed(exchange, name, number), after=number)
            return
        key, told = key_of(exchange), digest(exchange.path, body)
        if key and (known := self._keeper.with_key(key, told)) is not None:
            assert isinstance(known, KeptResponse)
            self._keeper.metrics.taken_up("idempotency_key")
            await self._pass_on(exchange, known, timeout=exchange.timeout)
        else:
            kept = KeptResponse(exchange, scope=scope_of(exchange), key=key, digest=told)
            self._begin(exchange, kept, body)
            await self._pass_on(exchange, kept)

    def _begin(self, exchange: Exchange, kept: KeptResponse, body: bytes) -> None:
        """Raises :class:`~shoal.errors.Overloaded`."""
        recorder = Recorder(kept, exchange, body, self._keeper.add)

        async def make() -> bool:
            answered = await self._surfaces.answer(recorder.scope, recorder.receive, recorder.send)
            return not answered.failed

        exchange.release()  # the body is counted where it is read
        self._keeper.begin(kept, make, name=f"kept {exchange.request_id}")

    def _resumed(self, exchange: Exchange, name: str, number: int) -> KeptResponse:
        """Raises :class:`EventsGone`, and :class:`InvalidRequest` for an event that never was."""
        found = self._keeper.find(name, scope_of(exchange))
        if not isinstance(found, KeptResponse) or found.path != exchange.path:
            raise EventsGone("no stream with this last-event-id is kept here: ask again without it")
        if number > found.parts.log.last:
            raise InvalidRequest("last-event-id is not the id of an event that was sent", param="last-event-id")
        self._keeper.metrics.taken_up("event_id")
        return found

    async def _pass_on(
        self, exchange: Exchange, kept: KeptResponse, *, after: int = 0, timeout: float | None = None
    ) -> None:
        """``timeout``: seconds that this client waits, where the answer itself is not held to them."""
        exchange.request_id = kept.request_id  # the logs know the answer by this one
        pieces: list[memoryview] = []
        try:
            with exchange.client_watch(), nullcontext() if timeout is None else Deadline(timeout):
                async with aclosing(self._keeper.read(kept, after)) as pages:
                    async for page in pages:
                        assert kept.head is not None
                        exchange.source.cache = kept.head.cache
                        if kept.head.is_stream:
                            await exchange.send_events(sse.write(kept.id, page))
                        else:
                            pieces += (memoryview(event.data) for event in page)
        except TimeoutError:
            raise DeadlineExceeded from None
        if kept.head is None:
            raise kept.error or ShoalError
        if kept.head.is_stream:
            await exchange.end_events(b"")
        else:
            status, media, _, headers = kept.head
            await exchange.answer(status, b"", rest=pieces, content_type=media, headers=headers)


def _described(operation: Operation) -> Operation:
    errors = (*operation.errors, Conflict, EventsGone)
    return replace(operation, errors=errors, headers=(*operation.headers, *_HEADERS))
