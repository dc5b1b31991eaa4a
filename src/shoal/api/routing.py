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
        self._exact: dict[str, dict[str, Handler]] = {}
        self._folders: dict[str, dict[str, Handler]] = {}
        for route in routes:
            table = self._folders if route.path.endswith("/") else self._exact
            table.setdefault(route.path, {})[route.method] = route.handler

    def find(self, method: str, path: str) -> Handler:
        """HEAD is answered as GET: servers drop the body. Raises :class:`NotFound`, :class:`MethodNotAllowed`."""
        handlers = self._handlers(path)
        if not handlers:
            raise NotFound(f"there is nothing at {path}")
        handler = handlers.get("GET" if method == "HEAD" else method)
        if handler is None:
            raise MethodNotAllowed(f"{path} answers to {' and '.join(handlers)}, not to {method}")
        return handler

    def allowed(self, path: str) -> list[str]:
        """The methods that ``path`` answers to."""
        return list(self._handlers(path))

    def _handlers(self, path: str) -> dict[str, Handler]:
        if path in self._exact:
            return self._exact[path]
        below = (folder for folder in self._folders if path.startswith(folder))
        return self._folders.get(max(below, key=len, default=""), {})
