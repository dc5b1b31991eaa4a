"""What holds for every address: routing, request ids, one answer whatever goes wrong."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import pytest

from shoal.api.app import App, build_app
from shoal.api.asgi import Exchange
from shoal.api.limits import ApiLimits
from shoal.api.routing import Route
from shoal.api.testing import AsgiClient, FakePlane
from shoal.errors import InvalidRequest, ShoalError
from shoal.messages import Chunk, Generate


async def test_an_unknown_path_is_404_in_openais_shape(client: AsgiClient) -> None:
    answer = await client.request("GET", "/v1/nothing")
    assert answer.status == 404
    assert answer.json()["error"]["code"] == "not_found"
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_a_wrong_method_is_405_and_names_the_right_one(client: AsgiClient) -> None:
    answer = await client.request("DELETE", "/v1/models")
    assert answer.status == 405
    assert answer.headers["allow"] == "GET"
    assert answer.json()["error"]["code"] == "method_not_allowed"


async def test_head_is_answered_like_get(client: AsgiClient) -> None:
    assert (await client.request("HEAD", "/health/live")).status == 200


async def test_a_request_id_is_echoed(client: AsgiClient) -> None:
    answer = await client.request("GET", "/health/live", headers={"x-request-id": "my id 7"})
    assert answer.headers["x-request-id"] == "my id 7"


@pytest.mark.parametrize("given", ["", "x" * 129, "tab\there", "line\nbreak", "ünicode"])
async def test_a_request_id_that_is_not_printable_or_too_long_is_replaced(client: AsgiClient, given: str) -> None:
    answer = await client.request("GET", "/health/live", headers={"x-request-id": given})
    assert answer.headers["x-request-id"] != given
    assert len(answer.headers["x-request-id"]) == 32


async def test_errors_carry_the_request_id(client: AsgiClient) -> None:
    answer = await client.request("GET", "/v1/nothing", headers={"x-request-id": "seven"})
    assert answer.headers["x-request-id"] == "seven"
    assert answer.json()["error"]["request_id"] == "seven"


async def test_a_handler_that_fails_is_a_500_that_tells_nothing_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(exchange: Exchange) -> None:
        raise KeyError("secret")

    client = AsgiClient(App([Route("GET", "/broken", broken)], limits=ApiLimits()))
    with caplog.at_level(logging.ERROR):
        answer = await client.request("GET", "/broken")
    assert answer.status == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert b"secret" not in answer.body
    assert "a handler failed" in caplog.text


async def test_a_handler_that_fails_after_its_answer_does_not_answer_again() -> None:
    async def broken(exchange: Exchange) -> None:
        await exchange.answer(200, b"{}")
        raise ShoalError("too late")

    client = AsgiClient(App([Route("GET", "/broken", broken)], limits=ApiLimits()))
    answer = await client.request("GET", "/broken")  # the client asserts that there is one answer
    assert (answer.status, answer.body) == (200, b"{}")


async def test_a_server_that_stops_tells_the_client_to_ask_elsewhere() -> None:
    begun = asyncio.Event()

    async def forever(request: Generate) -> AsyncGenerator[Chunk, None]:
        begun.set()
        await asyncio.Event().wait()
        yield Chunk("", ())

    plane = FakePlane(forever)
    client = AsgiClient(build_app(plane, metrics=bytes))
    body = b'{"model": "smollm2", "messages": [{"role": "user", "content": "hi"}]}'
    call = client.call("POST", "/v1/chat/completions", [body])
    serving = asyncio.create_task(client.run(call))
    await begun.wait()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert call.ended
    assert call.answer.status == 503
    assert call.answer.headers["x-should-retry"] == "true"
    assert not plane.running


async def test_the_lifespan_protocol_is_answered(client: AsgiClient, plane: FakePlane) -> None:
    events = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[str] = []

    async def receive() -> Mapping[str, Any]:
        return events.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message["type"])

    await build_app(plane, metrics=bytes)({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_what_the_headers_say_of_a_request_travels_with_it(client: AsgiClient, plane: FakePlane) -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    body = {"model": "smollm2", "messages": [{"role": "user", "content": "Hi."}]}
    await client.request("POST", "/v1/chat/completions", json=body, headers={"traceparent": parent, "x-priority": "-3"})
    (request,) = plane.generated
    assert (request.trace, request.priority) == (parent, -3)


@pytest.mark.parametrize("parent", ["nonsense", "00-" + "g" * 32 + "-00f067aa0ba902b7-01", "00-0-0-01", ""])
async def test_a_traceparent_that_is_none_is_ignored(client: AsgiClient, plane: FakePlane, parent: str) -> None:
    body = {"model": "minilm", "input": "a herring"}
    answer = await client.request("POST", "/v1/embeddings", json=body, headers={"traceparent": parent})
    assert answer.status == 200
    assert plane.inferred[0].trace == ""


@pytest.mark.parametrize("priority", ["high", "", "101", "-101", "1e2", "+1", "1" * 100])
async def test_a_priority_that_is_none_is_named(client: AsgiClient, plane: FakePlane, priority: str) -> None:
    body = {"model": "minilm", "input": "a herring"}
    answer = await client.request("POST", "/v1/embeddings", json=body, headers={"x-priority": priority})
    assert (answer.status, answer.json()["error"]["param"]) == (400, "x-priority")
    assert not plane.inferred


@pytest.mark.parametrize("fault", ["leaves", "slow", "too large", "invalid"])
async def test_a_request_that_failed_is_freed_at_once(fault: str) -> None:
    """The collector comes rarely, and a body may be large."""
    seen: list[weakref.ref[Exchange]] = []

    async def read(exchange: Exchange) -> None:
        seen.append(weakref.ref(exchange))
        body = await exchange.read_body()
        raise InvalidRequest(f"{len(body)} bytes of nonsense")

    client = AsgiClient(App([Route("POST", "/", read)], limits=ApiLimits(body_bytes=9, body_timeout=0.01)))
    call = client.call("POST", "/", [b"1234", b"5" * (6 if fault == "too large" else 1)])
    call.scope["headers"] = []
    call.complete = fault == "invalid"
    if fault == "leaves":
        call.gone.set()
    gc.disable()
    try:
        await client.run(call)
        await asyncio.sleep(0)
        assert seen[0]() is None
    finally:
        gc.enable()
