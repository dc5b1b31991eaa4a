from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from shoal.api import admin, build_app
from shoal.api.testing import AsgiClient, FakePlane
from shoal.config import CoordinatorConfig, ModelConfig
from shoal.model_registry import Registry, make_spec
from shoal.node import Coordinator
from shoal.rpc import MemoryNetwork
from shoal.types import RequestId

HOST = {"host": "127.0.0.1:9000", "content-type": "application/json"}
REMEMBERED = RequestId("r1")


def decisions(request_id: RequestId) -> list[dict[str, str]]:
    return [{"worker_id": "w1"}] if request_id == REMEMBERED else []


def client_of(*, anybody: bool = False) -> AsgiClient:
    registry = Registry([make_spec("m@1", ModelConfig(uri="echo")), make_spec("m@2", ModelConfig(uri="echo"))])
    made = Coordinator(CoordinatorConfig(), registry, MemoryNetwork("coordinator"))
    routes = admin.routes(made.control, made.overview, decision=decisions, anybody=anybody)
    return AsgiClient(build_app(FakePlane(), metrics=lambda: b"", admin=routes))


@pytest.fixture
async def client() -> AsgiClient:
    return client_of()


async def test_models_and_aliases_are_shown(client: AsgiClient) -> None:
    body = (await client.request("GET", "/admin/models", headers=HOST)).json()
    assert [(model["name"], model["version"], model["live"]) for model in body["models"]] == [
        ("m", "1", True),
        ("m", "2", False),
    ]
    assert body["aliases"] == {}
    assert (await client.request("GET", "/admin/workers", headers=HOST)).json() == {"workers": []}


async def test_aliases_are_set_and_deleted(client: AsgiClient) -> None:
    targets = {"m@1": 9, "m@2": 1}
    answer = await client.request("PUT", "/admin/aliases/chat", json={"targets": targets}, headers=HOST)
    assert (answer.status, answer.json()) == (200, {"alias": "chat", "targets": targets})
    shown = await client.request("GET", "/admin/models", headers=HOST)
    assert shown.json()["aliases"] == {"chat": targets}
    assert (await client.request("DELETE", "/admin/aliases/chat", headers=HOST)).status == 200
    assert (await client.request("DELETE", "/admin/aliases/chat", headers=HOST)).status == 404


async def test_a_version_is_unloaded(client: AsgiClient) -> None:
    answer = await client.request("DELETE", "/admin/models/m@2", headers=HOST)
    assert (answer.status, answer.json()) == (200, {"unloaded": ["m@2"]})


async def test_where_a_request_went_is_told(client: AsgiClient) -> None:
    answer = await client.request("GET", "/admin/requests/r1", headers=HOST)
    assert answer.json() == {"request_id": "r1", "decisions": [{"worker_id": "w1"}]}
    assert (await client.request("GET", "/admin/requests/r2", headers=HOST)).status == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("POST", "/admin/models", {"name": "m@3", "settings": {"uri": "echo"}}, 503, "there is no worker"),
        ("POST", "/admin/models", {"name": "m@2", "settings": {"uri": "echo"}}, 409, "two models called 'm@2'"),
        ("POST", "/admin/models", {"name": "m", "version": "2", "settings": {"uri": "echo"}}, 409, "'m@2'"),
        ("POST", "/admin/models", {"name": "m@3", "settings": {"uri": "smollm2"}}, 409, "of one kind"),
        ("POST", "/admin/models", {"name": "x"}, 400, "settings"),
        ("POST", "/admin/models", {"name": "x", "settings": {"speed": 1}}, 400, "speed"),
        ("POST", "/admin/models", {"name": "x", "settings": {}}, 400, "'' is not a model"),
        ("POST", "/admin/models", {"name": "a b", "settings": {"uri": "echo"}}, 400, "cannot be a model's name"),
        ("POST", "/admin/models", {"name": "x", "settings": {"uri": "echo"}, "replicas": 0}, 400, "replicas"),
        (
            "POST",
            "/admin/models",
            {"name": "x", "settings": {"uri": "echo"}, "replicas": 1, "workers": ["w"]},
            400,
            "not both",
        ),
        (
            "POST",
            "/admin/models",
            {"name": "x", "settings": {"uri": "echo"}, "workers": ["w"]},
            400,
            "no worker 'w'",
        ),
        ("DELETE", "/admin/models/m@1", None, 409, "promote another"),
        ("DELETE", "/admin/models/other", None, 404, "'other'"),
        ("DELETE", "/admin/models/", None, 404, "nothing at /admin/models/"),
        ("POST", "/admin/models/m@2/promote", None, 409, "is ready nowhere"),
        ("POST", "/admin/models/m@7/promote", None, 404, "m@7"),
        ("POST", "/admin/models/m/promote", None, 400, "NAME@VERSION"),
        ("POST", "/admin/models/m@2/demote", None, 404, "nothing at /admin/models/m@2/demote"),
        ("PUT", "/admin/aliases/chat", {"targets": {}}, 400, "targets"),
        ("PUT", "/admin/aliases/chat", {"targets": {"m@1": 0}}, 400, "targets"),
        ("PUT", "/admin/aliases/chat", {"targets": {"whale": 1}}, 400, "leads to 'whale'"),
        ("PUT", "/admin/aliases/m", {"targets": {"m@1": 1}}, 400, "two models called 'm'"),
        ("POST", "/admin/workers/w/drain", None, 404, "no worker 'w'"),
        ("POST", "/admin/workers/w/drain", {"timeout": -1}, 400, "timeout"),
        ("PATCH", "/admin/models", None, 405, "answers to GET and POST"),
    ],
)
async def test_what_cannot_be_done_says_why(
    client: AsgiClient, method: str, path: str, body: Any, status: int, says: str
) -> None:
    answer = await client.request(method, path, json=body, headers=HOST)
    assert (answer.status, says in answer.json()["error"]["message"]) == (status, True), answer.body
    assert answer.json()["error"]["request_id"]


ELSEWHERE = "192.0.2.7"


@pytest.mark.parametrize(
    ("caller", "headers"),
    [
        (ELSEWHERE, {}),
        ("", {}),
        ("::ffff:192.0.2.7", {}),
        ("127.0.0.1", {"x-forwarded-for": "127.0.0.1"}),
        ("127.0.0.1", {"forwarded": "for=127.0.0.1"}),
        ("127.0.0.1", {"via": "1.1 proxy"}),
        ("127.0.0.1", {"x-real-ip": "127.0.0.1"}),
        ("127.0.0.1", {"host": "rebound.example"}),
        ("127.0.0.1", {"host": "127.0.0.1.rebound.example:9000"}),
        ("127.0.0.1", {"host": ""}),
        ("127.0.0.1", {"origin": "http://rebound.example"}),
        ("127.0.0.1", {"origin": "null"}),
        ("127.0.0.1", {"origin": "http://127.0.0.1:8000"}),
        ("127.0.0.1", {"sec-fetch-site": "cross-site"}),
    ],
)
@pytest.mark.parametrize(("method", "path"), [("GET", "/admin/models"), ("DELETE", "/admin/models/m@2")])
async def test_others_than_clients_on_this_machine_are_refused(
    client: AsgiClient, caller: str, headers: Mapping[str, str], method: str, path: str
) -> None:
    answer = await client.request(method, path, headers={**HOST, **headers}, client=caller)
    assert (answer.status, answer.json()["error"]["code"]) == (403, "forbidden")
    shown = await client.request("GET", "/admin/models", headers=HOST)
    assert len(shown.json()["models"]) == 2


@pytest.mark.parametrize(
    ("caller", "headers"),
    [
        ("127.8.9.1", {}),
        ("::1", {"host": "[::1]:9000"}),
        ("::ffff:127.0.0.1", {"host": "LocalHost"}),
        ("127.0.0.1", {"origin": "http://127.0.0.1:9000", "sec-fetch-site": "same-origin"}),
    ],
)
async def test_clients_on_this_machine_are_served(client: AsgiClient, caller: str, headers: Mapping[str, str]) -> None:
    assert (await client.request("GET", "/admin/models", headers={**HOST, **headers}, client=caller)).status == 200


async def test_where_anybody_may_call_pages_of_other_sites_still_may_not() -> None:
    client = client_of(anybody=True)
    far = {**HOST, "host": "shoal.example", "x-forwarded-for": ELSEWHERE}
    assert (await client.request("GET", "/admin/models", headers=far, client=ELSEWHERE)).status == 200
    page = {**far, "origin": "http://elsewhere.example"}
    assert (await client.request("GET", "/admin/models", headers=page, client=ELSEWHERE)).status == 403


@pytest.mark.parametrize("media_type", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/admin/models"), ("POST", "/admin/models/m@2/promote"), ("PUT", "/admin/aliases/chat")],
)
async def test_a_write_must_say_that_it_is_json(client: AsgiClient, media_type: str, method: str, path: str) -> None:
    headers = {**HOST, "content-type": media_type}
    answer = await client.request(method, path, json={"targets": {"m@1": 1}}, headers=headers)
    assert (answer.status, answer.json()["error"]["param"]) == (400, "content-type")
