"""``/admin``: what an operator sees and changes. The commands ``shoal models`` and ``shoal workers`` ask here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any, Final, Literal

import msgspec

from shoal.api.asgi import Exchange
from shoal.api.local import check_client
from shoal.api.openai.decode import parse
from shoal.api.openapi import READS_BODY, Content, Errors, Operation
from shoal.api.routing import Route
from shoal.config import Count, ModelConfig, Seconds
from shoal.coordinator.control import Control
from shoal.coordinator.overview import ModelsView, ModelView, Overview, WorkerView
from shoal.errors import (
    Conflict,
    DeadlineExceeded,
    Forbidden,
    InvalidRequest,
    ModelUnavailable,
    NotFound,
    Overloaded,
    ShoalError,
)
from shoal.model_registry import Placement, parse_model_id
from shoal.types import FIRST_VERSION, ModelId, RequestId, WorkerId

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


class Unloaded(msgspec.Struct, frozen=True):
    unloaded: list[str]  # NAME@VERSION


class Pointed(msgspec.Struct, frozen=True):
    alias: str
    targets: dict[str, Weight]


class Deleted(msgspec.Struct, frozen=True):
    deleted: str


class WorkersView(msgspec.Struct, frozen=True):
    workers: list[WorkerView]


class Drained(msgspec.Struct, frozen=True):
    worker: str
    state: Literal["draining"] = "draining"


class Decisions(msgspec.Struct, frozen=True):
    request_id: str
    decisions: list[Any]


def _says(
    kind: type, summary: str, *errors: type[ShoalError], status: int = 200, body: type | None = None
) -> Operation:
    """Whoever is not permitted is told so first. Writes say that they are JSON, also where they have no body."""
    contents = () if body is None else (Content(body),)
    known: Errors = (Forbidden, *errors) if body is None else (Forbidden, *READS_BODY, *errors)
    return Operation(summary, {status: (Content(kind),)}, body=contents, errors=known)


_CHANGES: Final[Errors] = (InvalidRequest, NotFound, Conflict)
_LOAD_MODEL: Final = _says(
    ModelView, "Load a model", Conflict, ModelUnavailable, DeadlineExceeded, status=201, body=LoadBody
)
_UNLOAD: Final = _says(Unloaded, "Unload a model or a version", *_CHANGES, Overloaded)
_POINT: Final = _says(Pointed, "Let an alias lead to models, by weight", *_CHANGES, body=AliasBody)
_DRAIN_WORKER: Final = Operation(
    "Let a worker finish what it has, and leave",
    {202: (Content(Drained),)},
    body=(Content(DrainBody),),
    body_required=False,
    errors=(Forbidden, *READS_BODY, NotFound, Conflict),
)


def routes(
    control: Control,
    overview: Overview,
    *,
    decision: Callable[[RequestId], Any],
    anybody: bool = False,
) -> list[Route]:
    """``decision``: where a request went and why, or nothing when that is not known any more."""
    admin = _Admin(control, overview, decision)
    table: list[tuple[str, str, Handle, Operation]] = [
        ("GET", "/admin/models", admin.list_models, _says(ModelsView, "Every version of every model, and aliases")),
        ("POST", "/admin/models", admin.load, _LOAD_MODEL),
        ("DELETE", "/admin/models/{model}", admin.unload, _UNLOAD),
        ("POST", "/admin/models/{model}/promote", admin.promote, _says(ModelView, "Make a version live", *_CHANGES)),
        ("PUT", "/admin/aliases/{alias}", admin.point, _POINT),
        ("DELETE", "/admin/aliases/{alias}", admin.unpoint, _says(Deleted, "Take an alias away", *_CHANGES)),
        ("GET", "/admin/workers", admin.list_workers, _says(WorkersView, "Every worker")),
        ("POST", "/admin/workers/{worker}/drain", admin.drain, _DRAIN_WORKER),
        (
            "GET",
            "/admin/requests/{request*}",
            admin.explain,
            _says(Decisions, "Where a request went", NotFound),
        ),
    ]
    return [
        Route(method, path, partial(_guarded, handle, anybody), operation) for method, path, handle, operation in table
    ]


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
        raw = await exchange.read_body()
        body = parse(_LOAD, raw)
        given = msgspec.json.decode(raw)["settings"].keys()
        name = body.name if body.version is None else f"{body.name}@{body.version}"
        if body.replicas is not None and body.workers:
            raise InvalidRequest("give replicas or workers, not both", param="replicas")
        spec = await self._control.load(name, body.settings, Placement(body.workers, body.replicas), given=given)
        await exchange.answer(201, _encode(self._overview.model(spec.id)))

    async def unload(self, exchange: Exchange) -> None:
        gone = await self._control.unload(exchange.parameters["model"])
        await exchange.answer(200, _encode(Unloaded([str(model) for model in gone])))

    async def promote(self, exchange: Exchange) -> None:
        name = exchange.parameters["model"]
        self._control.promote(name)
        found, version = parse_model_id(name)
        await exchange.answer(200, _encode(self._overview.model(ModelId(found, version or FIRST_VERSION))))

    async def point(self, exchange: Exchange) -> None:
        alias = exchange.parameters["alias"]
        body = parse(_ALIAS, await exchange.read_body())
        self._control.point(alias, body.targets)
        await exchange.answer(200, _encode(Pointed(alias, body.targets)))

    async def unpoint(self, exchange: Exchange) -> None:
        alias = exchange.parameters["alias"]
        self._control.unpoint(alias)
        await exchange.answer(200, _encode(Deleted(alias)))

    async def list_workers(self, exchange: Exchange) -> None:
        await exchange.answer(200, _encode(WorkersView(self._overview.workers())))

    async def drain(self, exchange: Exchange) -> None:
        worker = exchange.parameters["worker"]
        body = parse(_DRAIN, await exchange.read_body() or b"{}")
        self._control.drain(worker, body.timeout)
        await exchange.answer(202, _encode(Drained(worker)))

    async def explain(self, exchange: Exchange) -> None:
        request_id = RequestId(exchange.parameters["request"])
        found = self._decision(request_id)
        if not found:
            raise NotFound(
                f"nothing is known of a request '{request_id[:128]}'; the latest that went to a worker are remembered"
            )
        await exchange.answer(200, _encode(Decisions(request_id, found)))
