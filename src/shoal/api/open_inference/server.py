"""GET /v2 and /v2/health/…"""

from __future__ import annotations

from importlib.metadata import version

from shoal.api.asgi import Exchange
from shoal.api.open_inference.answers import ServerLive, ServerMetadata, ServerReady, encode
from shoal.api.plane import Plane
from shoal.errors import ModelUnavailable


async def metadata(exchange: Exchange) -> None:
    await exchange.answer(200, encode(ServerMetadata("shoal", version("shoal"), ["binary_tensor_data", "parameters"])))


async def live(exchange: Exchange) -> None:
    await exchange.answer(200, encode(ServerLive(live=True)))


async def ready(plane: Plane, exchange: Exchange) -> None:
    """Raises :class:`ModelUnavailable`: the protocol knows readiness by the status alone."""
    if not plane.ready():
        waiting = ", ".join(model.name for model in plane.models() if not model.ready)
        raise ModelUnavailable(f"the server is not ready{waiting and ': it waits for '}{waiting}")
    await exchange.answer(200, encode(ServerReady(ready=True)))
