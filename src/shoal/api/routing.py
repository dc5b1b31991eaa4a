"""Which handler answers which method and path: an exact match in one table, or a path below a known folder."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from shoal.api.asgi import Exchange
from shoal.errors import MethodNotAllowed, NotFound

Handler = Callable[[Exchange], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Route:
    """A path that ends with a slash takes every path below it; the handler reads the rest from the exchange."""

    method: str
    path: str
    handler: Handler


class Routes:
    """The table of all surfaces."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._exact: dict[str, dict[str, Route]] = {}
        self._folders: dict[str, dict[str, Route]] = {}
        for route in routes:
            table = self._folders if route.path.endswith("/") else self._exact
            table.setdefault(route.path, {})[route.method] = route

    def find(self, method: str, path: str) -> Route:
        """HEAD is answered as GET: servers drop the body. Raises :class:`NotFound`, :class:`MethodNotAllowed`."""
        methods = self._methods(path)
        if not methods:
            raise NotFound(f"there is nothing at {path}")
        route = methods.get("GET" if method == "HEAD" else method)
        if route is None:
            raise MethodNotAllowed(f"{path} answers to {' and '.join(methods)}, not to {method}")
        return route

    def allowed(self, path: str) -> list[str]:
        """The methods that ``path`` answers to."""
        return list(self._methods(path))

    def _methods(self, path: str) -> dict[str, Route]:
        if path in self._exact:
            return self._exact[path]
        below = (folder for folder in self._folders if path.startswith(folder))
        return self._folders.get(max(below, key=len, default=""), {})
