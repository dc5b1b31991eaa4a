"""Paths, exact and as templates."""

from __future__ import annotations

import pytest

from shoal.api.asgi import Exchange
from shoal.api.routing import Route, Routes
from shoal.errors import MethodNotAllowed, NotFound


async def nothing(exchange: Exchange) -> None:
    raise AssertionError


CHILDREN = ("/fish/{name}/eat", "/fish/{name}/fins/{fin}")
PATHS = (
    "/one",
    "/fish/{name}",
    "/fish/{name}/eat",
    "/fish/{name}/fins/{fin}",
    "/fish/all",
    "/files/{path*}",
    "/a.b/{c}",
)
ROUTES = Routes([*(Route("GET", path, nothing) for path in PATHS), Route("POST", "/fish/{name}", nothing)])


@pytest.mark.parametrize(
    ("path", "found", "parameters"),
    [
        ("/one", "/one", {}),
        ("/fish/cod", "/fish/{name}", {"name": "cod"}),
        ("/fish/a b", "/fish/{name}", {"name": "a b"}),
        ("/fish/cod/eat", "/fish/{name}/eat", {"name": "cod"}),
        ("/fish/cod/fins/2", "/fish/{name}/fins/{fin}", {"name": "cod", "fin": "2"}),
        ("/fish/all", "/fish/all", {}),
        ("/files/", "/files/{path*}", {"path": ""}),
        ("/files/a/b\n", "/files/{path*}", {"path": "a/b\n"}),
        ("/a.b/c", "/a.b/{c}", {"c": "c"}),
    ],
)
def test_a_path_finds_its_route_and_the_values_in_it(path: str, found: str, parameters: dict[str, str]) -> None:
    route, values = ROUTES.find("GET", path)
    assert route.path == found
    assert values == parameters


@pytest.mark.parametrize("path", ["/", "/two", "/fish", "/fish/", "/fish/cod/", "/fish//eat", "/fish/cod/eat/x"])
def test_what_fits_no_template_is_not_found(path: str) -> None:
    with pytest.raises(NotFound):
        ROUTES.find("GET", path)


def test_a_template_answers_to_all_its_methods() -> None:
    assert ROUTES.allowed("/fish/cod") == ["GET", "POST"]
    assert ROUTES.find("POST", "/fish/cod")[0].method == "POST"
    with pytest.raises(MethodNotAllowed, match="GET and POST, not to DELETE"):
        ROUTES.find("DELETE", "/fish/cod")


def test_well_known_places_that_are_empty_say_why() -> None:
    routes = Routes([Route("GET", "/v2/models/{model}", nothing)], {"/v2/logging": "logs are elsewhere"})
    with pytest.raises(NotFound, match="nothing at /v2/logging: logs are elsewhere"):
        routes.find("POST", "/v2/logging")
