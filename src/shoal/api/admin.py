"""``/admin``: what an operator sees and changes. The commands ``shoal models`` and ``shoal workers`` ask here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any, Final

import msgspec

from shoal.api.asgi import Exchange
from shoal.api.local import check_client
from shoal.api.openai.decode import parse
from shoal.api.routing import Route
from shoal.config import Count, ModelConfig, Seconds
from shoal.coordinator.control import Control
from shoal.coordinator.overview import Overview
from shoal.errors import InvalidRequest, NotFound
from shoal.model_registry import Placement, parse_model_id
from shoal.types import FIRST_VERSION, ModelId, RequestId, WorkerId

MODELS: Final = "/admin/models/"
ALIASES: Final = "/admin/aliases/"
WORKERS: Final = "/admin/workers/"
REQUESTS: Final = "/admin/requests/"

MAX_TARGETS: Final = 64  # of an alias
MAX_WEIGHT: Final = 2**31

_encode = msgspec.json.Encoder().encode

Weight = Annotated[int, msgspec.Meta(ge=1, le=MAX_WEIGHT)]


class LoadBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str  # NAME, or NAME@VERSION
    settings: ModelConfig
    version: str | None = None
    replicas: Count | None = None  # None: every worker
    workers: tuple[WorkerId, ...] = ()


class AliasBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    targets: Annotated[dict[str, Weight], msgspec.Meta(min_length=1, max_length=MAX_TARGETS)]


class DrainBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    timeout: Seconds | None = None  # for what runs; None: the coordinator's own


_LOAD = msgspec.json.Decoder(LoadBody)
_ALIAS = msgspec.json.Decoder(AliasBody)
_DRAIN = msgspec.json.Decoder(DrainBody)

Handle = Callable[[Exchange], Awaitable[None]]


def routes(
    control: Control,
    overview: Overview,
    *,
    decision: Callable[[RequestId], Any],
    anybody: bool = False,
) -> list[Route]:
    """``decision``: where a request went and why, or nothing when that is not known any more."""
    admin = _Admin(control, overview, decision)
    table: list[tuple[str, str, Handle]] = [
        ("GET", "/admin/models", admin.list_models),
        ("POST", "/admin/models", admin.load),
        ("DELETE", MODELS, admin.unload),
        ("POST", MODELS, admin.promote),
        ("PUT", ALIASES, admin.point),
        ("DELETE", ALIASES, admin.unpoint),
        ("GET", "/admin/workers", admin.list_workers),
        ("POST", WORKERS, admin.drain),
        ("GET", REQUESTS, admin.explain),
    ]
    return [Route(method, path, partial(_guarded, handle, anybody)) for method, path, handle in table]


async def _guarded(handle: Handle, anybody: bool, exchange: Exchange) -> None:
    check_client(exchange, anybody=anybody)
    await handle(exchange)


class _Admin:
    def __init__(self, control: Control, overview: Overview, decision: Callable[[RequestId], Any]) -> None:
        self._control = control
        self._overview = overview
        self._decision = decision

    async def list_models(self, exchange: Exchange) -> None:
        await exchange.answer(200, _encode(self._overview.models()))

    async def load(self, exchange: Exchange) -> None:
        body = parse(_LOAD, await exchange.read_body())
        name = body.name if body.version is None else f"{body.name}@{body.version}"
        if body.replicas is not None and body.workers:
            raise InvalidRequest("give replicas or workers, not both", param="replicas")
        spec = await self._control.load(name, body.settings, Placement(body.workers, body.replicas))
        await exchange.answer(201, _encode(self._overview.model(spec.id)))

    async def unload(self, exchange: Exchange) -> None:
        gone = await self._control.unload(exchange.path.removeprefix(MODELS))
        await exchange.answer(200, _encode({"unloaded": [str(model) for model in gone]}))

    async def promote(self, exchange: Exchange) -> None:
        name = _before(exchange, MODELS, "/promote")
        self._control.promote(name)
        found, version = parse_model_id(name)
        await exchange.answer(200, _encode(self._overview.model(ModelId(found, version or FIRST_VERSION))))

    async def point(self, exchange: Exchange) -> None:
        alias = exchange.path.removeprefix(ALIASES)
        body = parse(_ALIAS, await exchange.read_body())
        self._control.point(alias, body.targets)
        await exchange.answer(200, _encode({"alias": alias, "targets": body.targets}))

    async def unpoint(self, exchange: Exchange) -> None:
        alias = exchange.path.removeprefix(ALIASES)
        self._control.unpoint(alias)
        await exchange.answer(200, _encode({"deleted": alias}))

    async def list_workers(self, exchange: Exchange) -> None:
        await exchange.answer(200, _encode({"workers": self._overview.workers()}))

    async def drain(self, exchange: Exchange) -> None:
        worker = _before(exchange, WORKERS, "/drain")
        body = parse(_DRAIN, await exchange.read_body() or b"{}")
        self._control.drain(worker, body.timeout)
        await exchange.answer(202, _encode({"worker": worker, "state": "draining"}))

    async def explain(self, exchange: Exchange) -> None:
        request_id = RequestId(exchange.path.removeprefix(REQUESTS))
        found = self._decision(request_id)
        if not found:
            raise NotFound(f"nothing is known of a request '{request_id[:128]}'; only the latest are remembered")
        await exchange.answer(200, _encode({"request_id": request_id, "decisions": found}))


def _before(exchange: Exchange, folder: str, action: str) -> str:
    """What stands between the two in the path. Raises :class:`NotFound`."""
    rest = exchange.path.removeprefix(folder)
    if not rest.endswith(action):
        raise NotFound(f"there is nothing at {exchange.path}; did you mean {folder}…{action}?")
    return rest.removesuffix(action)
