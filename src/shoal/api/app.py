"""The HTTP application: one ASGI callable for all surfaces.

It finds the handler and turns whatever goes wrong into exactly one final answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from shoal.api import jobs as job_surface
from shoal.api import open_inference, openai, operations
from shoal.api.asgi import Exchange, Header, Receive, Scope, Send
from shoal.api.errors import answer_error
from shoal.api.keeping import Keeping
from shoal.api.limits import ApiLimits
from shoal.api.local import check_page
from shoal.api.memory import BodyMemory
from shoal.api.openapi.document import route_to_document
from shoal.api.plane import Plane
from shoal.api.routing import SAFE_METHODS, Handler, Route, Routes
from shoal.coordinator.jobs import Jobs
from shoal.coordinator.keeper import Keeper
from shoal.errors import MethodNotAllowed, ModelUnavailable, ShoalError
from shoal.telemetry.tracing import NOTHING, Span, SpanKind, span

logger = logging.getLogger(__name__)

DEFAULT_LIMITS = ApiLimits()
UNKNOWN = "the server failed; the request id leads to the reason"
UNTRACED = ("/health", "/metrics")  # asked every few seconds, for ever


def build_app(
    plane: Plane,
    *,
    metrics: Callable[[], bytes],
    jobs: Jobs | None = None,
    keeper: Keeper | None = None,
    admin: Sequence[Route] = (),
    limits: ApiLimits = DEFAULT_LIMITS,
) -> App:
    """The application of every surface over one data plane. ``metrics`` returns Prometheus' text format."""
    memory = BodyMemory(limits.all_bodies_bytes)
    surfaces = App([*openai.routes(plane), *open_inference.routes(plane)], limits=limits, memory=memory)
    requests = surfaces.routes if keeper is None else Keeping(keeper, surfaces).routes()
    routes = [*requests, *operations.routes(plane, metrics), *admin]
    if jobs is not None:
        routes += job_surface.routes(jobs, surfaces)
    return App([*routes, route_to_document(routes)], limits=limits, memory=memory)


class App:
    """An ASGI application. Requests share nothing: each lives in its own call."""

    def __init__(self, routes: Sequence[Route], *, limits: ApiLimits, memory: BodyMemory | None = None) -> None:
        self.routes = tuple(routes)
        self._routes = Routes(routes, open_inference.ABSENT)
        self._limits = limits
        self._memory = memory or BodyMemory(limits.all_bodies_bytes)

    def find(self, method: str, path: str) -> Route:
        """Raises :class:`NotFound`, :class:`MethodNotAllowed`."""
        return self._routes.find(method, path)[0]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        else:
            await self._answer(Exchange(scope, receive, send, self._limits, self._memory))

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> Exchange:
        """Answer one request; returns it as it was answered."""
        exchange = Exchange(scope, receive, send, self._limits, self._memory)
        await self._answer(exchange)
        return exchange

    async def _answer(self, exchange: Exchange) -> None:
        probes = exchange.path.startswith(UNTRACED)
        made = NOTHING if probes else span(exchange.method, exchange.trace, kind=SpanKind.SERVER)
        with made:
            exchange.trace = made.trace
            try:
                try:
                    await self._handler(exchange, made)(exchange)
                except Exception as error:
                    await self._fail(exchange, error)
            except asyncio.CancelledError:
                # The server stops and has waited long enough. The client is told, so that it asks elsewhere.
                await answer_error(exchange, ModelUnavailable("the server is shutting down"))
                raise
            finally:
                made.set("http.response.status_code", exchange.status)
                exchange.release()

    def _handler(self, exchange: Exchange, made: Span) -> Handler:
        """Raises :class:`Forbidden`, :class:`NotFound`, :class:`MethodNotAllowed`."""
        if exchange.method not in SAFE_METHODS:
            check_page(exchange)
        route, exchange.parameters = self._routes.find(exchange.method, exchange.path)
        if made.is_recorded:
            made.rename(f"{exchange.method} {route.path}")
            made.set("shoal.request_id", exchange.request_id)
        return route.handler

    async def _fail(self, exchange: Exchange, error: Exception) -> None:
        headers: list[Header] = []
        if isinstance(error, MethodNotAllowed):
            headers.append((b"allow", ", ".join(self._routes.allowed(exchange.path)).encode()))
        elif isinstance(error, ShoalError):
            _log(exchange, error)
        else:
            extra = {"action": "handler_failed", "request_id": exchange.request_id}
            logger.exception("a handler failed", extra=extra)
        told = error if isinstance(error, ShoalError) else ShoalError(UNKNOWN)
        await answer_error(exchange, told, headers=headers)


def _log(exchange: Exchange, error: ShoalError) -> None:
    if error.fault == "server":
        logger.warning(
            "request failed: %s",
            error.message,
            extra={"action": "request_failed", "request_id": exchange.request_id, "code": error.code},
        )


async def _lifespan(receive: Receive, send: Send) -> None:
    """Nothing is started or stopped here: the node owns what this application works with."""
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return
