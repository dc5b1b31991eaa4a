"""Which handler answers which method and path: an exact match in one table, or a template with parameters."""

from __future__ import annotations

import functools
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

from shoal.api.asgi import Exchange
from shoal.api.openapi.operation import Operation
from shoal.errors import MethodNotAllowed, NotFound

Handler = Callable[[Exchange], Awaitable[None]]

SAFE_METHODS: Final = ("GET", "HEAD")  # they make nobody work: web pages of other sites may use them
PARAMETER: Final = re.compile(r"\{(?P<name>\w+)(?P<rest>\*?)\}")
_KEPT: Final = 1024  # paths that came last are not matched again
_KEPT_LENGTH: Final = 256  # characters
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path. ``{name}`` in a path is one segment, ``{name*}`` is everything from there on.

    ``computes``: a model runs for it, so that its answer is worth keeping for a client that comes back.
    ``operation`` is what the published document says of the route; it stands here, beside the handler, so that one
    does not change without the other. A surface describes a new route by giving it one.
    """

    method: str
    path: str
    handler: Handler
    operation: Operation | None = None
    computes: bool = False


_Found = tuple[Mapping[str, Route], Mapping[str, str]]


class _Template(NamedTuple):
    begins: str  # what comes before the first parameter
    pattern: re.Pattern[str]
    methods: dict[str, Route]

    @classmethod
    def of(cls, path: str, methods: dict[str, Route]) -> _Template:
        return cls(path[: path.index("{")], _pattern(path), methods)


class Routes:
    """The table of all surfaces. ``absent`` says, for the beginnings of well-known paths, why nothing is there."""

    def __init__(self, routes: Sequence[Route], absent: Mapping[str, str] = _NOTHING) -> None:
        self._exact: dict[str, dict[str, Route]] = {}
        templates: dict[str, dict[str, Route]] = {}
        self._absent = absent
        self._known = functools.lru_cache(_KEPT)(self._match_template)  # most clients ask for a few models
        for route in routes:
            table = templates if "{" in route.path else self._exact
            table.setdefault(route.path, {})[route.method] = route
        self._templates = [_Template.of(path, methods) for path, methods in templates.items()]

    def find(self, method: str, path: str) -> tuple[Route, Mapping[str, str]]:
        """The route, and the values of its path's parameters.

        HEAD is answered as GET: servers drop the body. Raises :class:`NotFound`, :class:`MethodNotAllowed`.
        """
        methods, parameters = self._match(path)
        if not methods:
            raise NotFound(f"there is nothing at {path}{self._reason(path)}")
        route = methods.get("GET" if method == "HEAD" else method)
        if route is None:
            raise MethodNotAllowed(f"{path} answers to {' and '.join(methods)}, not to {method}")
        return route, parameters

    def allowed(self, path: str) -> list[str]:
        """The methods that ``path`` answers to."""
        return list(self._match(path)[0])

    def _match(self, path: str) -> _Found:
        """By method."""
        if path in self._exact:
            return self._exact[path], _NOTHING
        return self._known(path) if len(path) <= _KEPT_LENGTH else self._match_template(path)

    def _match_template(self, path: str) -> _Found:
        for template in self._templates:
            if path.startswith(template.begins) and (found := template.pattern.fullmatch(path)):
                return template.methods, found.groupdict()
        return {}, _NOTHING

    def _reason(self, path: str) -> str:
        return next((f": {reason}" for start, reason in self._absent.items() if path.startswith(start)), "")


def _pattern(template: str) -> re.Pattern[str]:
    """``/a.b/{one}/{two*}`` as an expression with groups of these names."""
    literals = PARAMETER.split(template)[::3]
    made = re.escape(literals[0])
    for parameter, literal in zip(PARAMETER.finditer(template), literals[1:], strict=True):
        made += f"(?P<{parameter['name']}>{'.*' if parameter['rest'] else '[^/]+'}){re.escape(literal)}"
    return re.compile(made, re.DOTALL)
