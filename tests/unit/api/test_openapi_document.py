"""The published document says what there is, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shoal.api import admin
from shoal.api.app import App, build_app
from shoal.api.asgi import Exchange
from shoal.api.limits import ApiLimits
from shoal.api.openapi import Content, Operation
from shoal.api.openapi.document import document, route_to_document
from shoal.api.routing import PARAMETER, Route
from shoal.api.testing import AsgiClient, FakePlane
from shoal.config import CoordinatorConfig, JobsConfig
from shoal.coordinator.admission import Admission
from shoal.coordinator.jobs import Jobs
from shoal.errors import Draining, InvalidRequest, Overloaded
from shoal.model_registry import Registry
from shoal.node import Coordinator
from shoal.rpc import MemoryNetwork


async def nothing(exchange: Exchange) -> None:
    raise AssertionError


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set[str]()
        return own.union(*map(references, value.values()))
    return set[str]().union(*map(references, value)) if isinstance(value, list) else set()


@pytest.fixture
async def app(plane: FakePlane) -> App:
    """With every surface that there is."""
    made = Coordinator(CoordinatorConfig(), Registry(), MemoryNetwork("coordinator"))
    jobs = Jobs(JobsConfig(), admission=Admission(1), max_running=1)
    operators = admin.routes(made.control, made.overview, decision=lambda _: ())
    return build_app(plane, metrics=bytes, jobs=jobs, keeper=made.keeper, admin=operators)


@pytest.fixture
async def published(app: App) -> Any:
    answer = await AsgiClient(app).request("GET", "/openapi.json")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    return answer.json()


def test_every_route_is_in_the_document_and_the_other_way_round(app: App, published: Any) -> None:
    routes = {(route.method.lower(), PARAMETER.sub(r"{\g<name>}", route.path)) for route in app.routes}
    described = {(method, path) for path, methods in published["paths"].items() for method in methods}
    assert described == routes


def test_the_document_names_its_version_and_nothing_that_is_not_in_it(published: Any) -> None:
    assert published["openapi"] == "3.1.0"
    assert published["info"]["version"]
    defined = {f"#/components/schemas/{name}" for name in published["components"]["schemas"]}
    assert references(published) <= defined


async def test_what_a_page_of_another_site_is_told_is_in_the_document(app: App, published: Any) -> None:
    for path, methods in published["paths"].items():
        for method, operation in methods.items():
            answer = await AsgiClient(app).request(method.upper(), path, headers={"origin": "http://other.example"})
            assert str(answer.status) in operation["responses"], (method, path)


async def test_what_a_leaving_server_says_of_a_job_is_in_the_document(plane: FakePlane) -> None:
    admission = Admission(1)
    await admission.drain(0)
    client = AsgiClient(build_app(plane, metrics=bytes, jobs=Jobs(JobsConfig(), admission=admission, max_running=1)))
    document = (await client.request("GET", "/openapi.json")).json()
    answer = await client.request("POST", "/v1/jobs", json={"url": "/v1/embeddings", "body": {}})
    assert str(answer.status) in document["paths"]["/v1/jobs"]["post"]["responses"]
    assert answer.status == Draining.status


def test_every_operation_has_a_name_of_its_own(published: Any) -> None:
    names = [operation["operationId"] for methods in published["paths"].values() for operation in methods.values()]
    assert len(set(names)) == len(names)


def test_errors_have_the_shape_of_their_surface(published: Any) -> None:
    def shape(path: str) -> str:
        schema = published["paths"][path]["post"]["responses"]["400"]["content"]["application/json"]["schema"]
        return str(schema["$ref"].rsplit("/", 1)[1])

    assert shape("/v1/embeddings") == "ErrorAnswer"
    assert shape("/v2/models/{model}/infer") == "InferenceError"


def test_where_a_model_runs_a_client_may_come_back(published: Any) -> None:
    def headers(operation: Any) -> set[str]:
        return {found["name"] for found in operation["parameters"] if found["in"] == "header"}

    resumable = {
        path
        for path, methods in published["paths"].items()
        for operation in methods.values()
        if {"idempotency-key", "last-event-id"} <= headers(operation)
        and {"409", "410"} <= operation["responses"].keys()
    }
    runs = {
        path
        for path, methods in published["paths"].items()
        if "x-deadline-ms" in headers(methods.get("post", {"parameters": ()}))
    }
    assert resumable == runs - {"/v1/jobs"}


def test_an_operation_is_described_with_its_bodies_errors_and_parameters() -> None:
    operation = Operation("Do it", {202: (Content(int),)}, body=(Content(str),), errors=(InvalidRequest, Overloaded))
    made = document([Route("PUT", "/fish/{name}/{rest*}", nothing, operation), Route("GET", "/hidden", nothing)])
    (described,) = made["paths"]["/fish/{name}/{rest}"].values()
    assert described["operationId"] == "put_fish_name_rest"
    assert described["summary"] == "Do it"
    assert described["requestBody"] == {
        "content": {"application/json": {"schema": {"type": "string"}}},
        "required": True,
    }
    assert described["responses"].keys() == {"202", "400", "403", "429", "500"}
    assert described["responses"]["202"]["content"]["application/json"]["schema"] == {"type": "integer"}
    assert described["responses"]["429"]["description"] == "The server is at its limit; try again later."
    assert [(found["name"], found["in"]) for found in described["parameters"]] == [
        ("name", "path"),
        ("rest", "path"),
        ("x-request-id", "header"),
    ]
    assert made["paths"].keys() == {"/fish/{name}/{rest}"}


async def test_the_document_is_the_same_each_time() -> None:
    routes = [Route("GET", "/a", nothing, Operation("A", {200: (Content(int),)}))]
    made = [
        (await AsgiClient(App([route_to_document(routes)], limits=ApiLimits())).request("GET", "/openapi.json")).body
        for _ in range(2)
    ]
    assert made[0] == made[1]
    assert json.loads(made[0])["paths"].keys() == {"/a", "/openapi.json"}
