"""The document itself, OpenAPI 3.1, made from the routes when it is first asked for, and the route that serves it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any, Final

import msgspec

from shoal.api.asgi import Exchange
from shoal.api.errors import error_type
from shoal.api.openapi.operation import REQUEST_ID, Content, Errors, Operation
from shoal.api.routing import PARAMETER, SAFE_METHODS, Route
from shoal.errors import Forbidden, ShoalError

PATH: Final = "/openapi.json"

_REFERENCE = "#/components/schemas/{name}"
_encode = msgspec.json.Encoder(order="deterministic").encode


def route_to_document(routes: Sequence[Route]) -> Route:
    """Serves what these routes say of themselves, and of itself."""

    @cache
    def encoded() -> bytes:
        return _encode(document([*routes, own]))

    async def serve(exchange: Exchange) -> None:
        await exchange.answer(200, encoded())

    own = Route("GET", PATH, serve, Operation("This document", {200: (Content(dict[str, Any]),)}))
    return own


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """Routes without an operation are left out."""
    described = [(route, route.operation) for route in routes if route.operation is not None]
    schemas = _Schemas(described)
    paths: dict[str, dict[str, Any]] = {}
    for route, operation in described:
        paths.setdefault(_path(route), {})[route.method.lower()] = _operation(route, operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Shoal",
            "version": version("shoal"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": schemas.components},
    }


class _Schemas:
    """The schema of every type that any operation names."""

    def __init__(self, described: Iterable[tuple[Route, Operation]]) -> None:
        types = list({repr(kind): kind for route, operation in described for kind in _types(route, operation)}.values())
        made, self.components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
        self._of = {repr(kind): schema for kind, schema in zip(types, made, strict=True)}

    def content(self, contents: Iterable[Content]) -> dict[str, Any]:
        return {content.media: {"schema": self._of[repr(content.type)]} if content.type else {} for content in contents}


def _types(route: Route, operation: Operation) -> Iterable[Any]:
    contents = [*operation.body, *(content for contents in operation.answers.values() for content in contents)]
    return [error_type(route.path), *(content.type for content in contents if content.type)]


def _path(route: Route) -> str:
    return PARAMETER.sub(r"{\g<name>}", route.path)


def _operation(route: Route, operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    answers = {
        str(status): _answer("As asked", schemas.content(contents)) for status, contents in operation.answers.items()
    }
    error = schemas.content([Content(error_type(route.path))])
    errors = operation.errors if route.method in SAFE_METHODS else (*operation.errors, Forbidden)
    for status, kinds in _by_status(errors).items():
        answers.setdefault(str(status), _answer(" ".join(kind("").message for kind in kinds), error))
    answers.setdefault("500", _answer("The server failed.", error))
    made: dict[str, Any] = {
        "operationId": _id(route),
        "summary": operation.summary,
        "parameters": _parameters(route, operation),
        "responses": answers,
    }
    if operation.body:
        made["requestBody"] = {"content": schemas.content(operation.body), "required": operation.body_required}
    return made


def _answer(description: str, content: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": content} if content else {"description": description}


def _by_status(errors: Errors) -> dict[int, list[type[ShoalError]]]:
    found: dict[int, list[type[ShoalError]]] = {}
    for kind in dict.fromkeys(errors):
        found.setdefault(kind.status, []).append(kind)
    return found


def _parameters(route: Route, operation: Operation) -> list[dict[str, Any]]:
    path = [
        {"name": found["name"], "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for found in PARAMETER.finditer(route.path)
    ]
    understood = (REQUEST_ID, *operation.headers)
    headers = [
        {"name": header.name, "in": "header", "description": header.description, "schema": header.schema}
        for header in understood
    ]
    return [*path, *headers]


def _id(route: Route) -> str:
    words = [word for word in route.path.replace(".", "/").split("/") if word]
    return "_".join([route.method.lower(), *(word.strip("{*}") for word in words)]).replace("-", "_")
