"""What kubelets, balancers and Prometheus ask: is it alive, is it ready, how is it doing."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from shoal.api.asgi import Exchange
from shoal.api.plane import Plane
from shoal.api.routing import Route

PROMETHEUS_TEXT = b"text/plain; version=0.0.4; charset=utf-8"

_encode = msgspec.json.Encoder().encode


def routes(plane: Plane, metrics: Callable[[], bytes]) -> list[Route]:
    """``metrics`` returns Prometheus' text format."""

    async def live(exchange: Exchange) -> None:
        await exchange.answer(200, _encode({"status": "live"}))

    async def ready(exchange: Exchange) -> None:
        if plane.ready():
            await exchange.answer(200, _encode({"status": "ready"}))
        else:
            await exchange.answer(503, _encode({"status": "not_ready", "reason": _reason(plane)}))

    async def measure(exchange: Exchange) -> None:
        await exchange.answer(200, metrics(), content_type=PROMETHEUS_TEXT)

    return [
        Route("GET", "/health/live", live),
        Route("GET", "/health/ready", ready),
        Route("GET", "/metrics", measure),
    ]


def _reason(plane: Plane) -> str:
    waiting = [model.name for model in plane.models() if not model.ready]
    if waiting:
        return f"no worker is ready; waiting for {', '.join(waiting)}"
    return "no worker is ready"
