"""What kubelets, balancers and Prometheus ask: is it alive, is it ready, how is it doing.

Ready is a server with at least one model that answers and none that is still to come: of the configuration, or of a
worker that is there. A model that failed on every worker that has it does not count, for it would keep the others
from their clients; its name is in the answer. A model that only workers told of does not count once they have left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from shoal.api.asgi import Exchange
from shoal.api.openapi import TEXT, Content, Operation
from shoal.api.plane import Plane
from shoal.api.routing import Route
from shoal.types import ModelState

_NAMES_SHOWN = 20
PROMETHEUS_TEXT = b"text/plain; version=0.0.4; charset=utf-8"


class Live(msgspec.Struct, frozen=True):
    status: Literal["live"] = "live"


class Ready(msgspec.Struct, frozen=True):
    status: Literal["ready"] = "ready"
    failed: list[str] | UnsetType = UNSET  # models that no worker could load


class NotReady(msgspec.Struct, frozen=True, kw_only=True):
    status: Literal["not_ready"] = "not_ready"
    reason: str


_encode = msgspec.json.Encoder().encode


def routes(plane: Plane, metrics: Callable[[], bytes]) -> list[Route]:
    """``metrics`` returns Prometheus' text format."""

    async def live(exchange: Exchange) -> None:
        await exchange.answer(200, _encode(Live()))

    async def ready(exchange: Exchange) -> None:
        if plane.ready():
            await exchange.answer(200, _encode(Ready(failed=_failed(plane) or UNSET)))
        else:
            await exchange.answer(503, _encode(NotReady(reason=_reason(plane))))

    async def measure(exchange: Exchange) -> None:
        await exchange.answer(200, metrics(), content_type=PROMETHEUS_TEXT)

    return [
        Route("GET", "/health/live", live, Operation("Is the process alive?", {200: (Content(Live),)})),
        Route(
            "GET",
            "/health/ready",
            ready,
            Operation("May requests come?", {200: (Content(Ready),), 503: (Content(NotReady),)}),
        ),
        Route("GET", "/metrics", measure, Operation("For Prometheus", {200: (Content(str, TEXT),)})),
    ]


def _failed(plane: Plane) -> list[str]:
    return [model.name for model in plane.models() if model.failed][:_NAMES_SHOWN]


def _reason(plane: Plane) -> str:
    models = plane.models()
    said = [] if any(model.ready for model in models) else ["no worker is ready"]
    if waiting := [model.name for model in models if model.state is ModelState.LOADING and not model.absent]:
        said.append(f"waiting for {', '.join(waiting[:_NAMES_SHOWN])}")
    said += [f"{model.name} failed: {model.reason}" for model in models if model.failed][:_NAMES_SHOWN]
    return "; ".join(said) or "the server is stopping"
