"""Every wait on a client has an end: for its body, for its reading, for its goodbye. Time here is simulated."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from shoal.api.app import App
from shoal.api.asgi import LINGER, Exchange
from shoal.api.limits import ApiLimits
from shoal.api.routing import Route
from shoal.api.testing import AsgiClient, Call
from shoal.clock import ManualClockLoop
from shoal.coordinator.observation import Observation
from shoal.telemetry import CoordinatorMetrics

LIMITS = ApiLimits(body_bytes=100, body_timeout=30.0, write_timeout=60.0)


async def echo(exchange: Exchange) -> None:
    await exchange.answer(200, await exchange.read_body())


async def ticks(exchange: Exchange) -> None:
    await exchange.send_events(b"data: 1\n\n")
    await exchange.send_events(b"data: 2\n\n")
    await exchange.end_events(b"data: [DONE]\n\n")


async def kept(exchange: Exchange) -> None:
    """As if two runs had been asked for, by tasks of their own; what came of each is in the body."""
    observation = Observation(CoordinatorMetrics(CollectorRegistry(), is_known=bool), "model")

    async def run(outcome: str) -> None:
        observation.found(outcome)

    async with asyncio.TaskGroup() as group:
        for outcome in (await exchange.read_body()).decode().split():
            group.create_task(run(outcome))
    await ticks(exchange)


async def timeout(exchange: Exchange) -> None:
    await exchange.answer(200, str(exchange.timeout).encode())


@pytest.fixture
def client() -> AsgiClient:
    routes = [
        Route("POST", "/echo", echo),
        Route("GET", "/ticks", ticks),
        Route("GET", "/timeout", timeout),
        Route("POST", "/kept", kept),
    ]
    return AsgiClient(App(routes, limits=LIMITS))


def simulated(work: Callable[[], Coroutine[Any, Any, None]]) -> float:
    """Run on simulated time; returns the seconds that passed."""
    with asyncio.Runner(loop_factory=ManualClockLoop) as runner:
        began = runner.get_loop().time()
        runner.run(work())
        return runner.get_loop().time() - began


async def test_a_body_in_parts_is_joined(client: AsgiClient) -> None:
    call = client.call("POST", "/echo", [b"one ", b"", b"two"])
    await client.run(call)
    assert call.answer.body == b"one two"


@pytest.mark.parametrize(
    ("outcomes", "header"), [("", None), ("hit", "hit"), ("coalesced", "coalesced"), ("miss hit", "miss")]
)
async def test_the_answer_says_what_the_response_cache_had_to_say(
    client: AsgiClient, outcomes: str, header: str | None
) -> None:
    answer = await client.request("POST", "/kept", body=outcomes.encode())
    assert answer.headers.get("x-cache") == header
    assert "x-cache" not in (await client.request("GET", "/ticks")).headers


async def test_a_body_at_the_limit_is_read(client: AsgiClient) -> None:
    assert (await client.request("POST", "/echo", body=b"x" * 100)).status == 200


async def test_a_body_that_says_it_is_too_long_is_refused_before_it_is_read(client: AsgiClient) -> None:
    call = client.call("POST", "/echo", [b"x"], headers={"content-length": "101", "expect": "100-continue"})
    taken: list[int] = []

    async def receive() -> Mapping[str, Any]:
        taken.append(len(call.sent))
        return await call.receive()

    await client.app(call.scope, receive, call.send)
    assert call.answer.status == 413
    assert call.answer.json()["error"]["code"] == "payload_too_large"
    assert call.answer.headers["connection"] == "close"
    assert all(sent == 2 for sent in taken), "the answer is sent before anything of the body is taken"


async def test_a_body_that_grows_too_long_is_refused_while_it_arrives(client: AsgiClient) -> None:
    parts = [b"x" * 60] * 50
    call = client.call("POST", "/echo", parts, headers={"content-length": "0", "transfer-encoding": "chunked"})
    await client.run(call)
    assert call.answer.status == 413
    assert not call.parts, "the rest is dropped, so that the client gets to read its answer"


def test_a_client_that_never_stops_sending_is_left_after_a_while(client: AsgiClient) -> None:
    async def scenario() -> None:
        call = client.call("POST", "/echo", [b"x" * 101])
        call.complete = False
        await client.run(call)
        assert call.answer.status == 413
        assert call.ended

    assert simulated(scenario) == pytest.approx(LINGER)


def test_a_slow_body_is_408(client: AsgiClient) -> None:
    async def scenario() -> None:
        call = client.call("POST", "/echo", [b"half"], headers={"content-length": "8"})
        call.complete = False
        await client.run(call)
        assert call.answer.status == 408
        assert call.answer.headers["connection"] == "close"
        assert "30 s" in call.answer.json()["error"]["message"]

    assert simulated(scenario) == pytest.approx(LIMITS.body_timeout + LINGER)


async def test_a_client_that_leaves_while_it_sends_ends_the_request(client: AsgiClient) -> None:
    call = client.call("POST", "/echo", [b"half"], headers={"content-length": "8"})
    call.complete = False
    call.gone.set()
    await client.run(call)
    assert not call.sent


def test_a_client_that_does_not_read_is_left_after_the_write_deadline(client: AsgiClient) -> None:
    async def scenario() -> None:
        call: Call = client.call("GET", "/ticks", [b""])
        call.reads = False
        await client.run(call)
        assert not call.ended, "nothing more can be sent; the server closes the connection"

    assert simulated(scenario) == pytest.approx(LIMITS.write_timeout)


def test_a_client_that_does_not_even_read_an_error_is_left_too(client: AsgiClient) -> None:
    async def scenario() -> None:
        call = client.call("GET", "/nowhere", [b""])
        call.reads = False
        await client.run(call)  # raises nothing: a server would log a client's silence as a failure of its own
        assert not call.ended

    assert simulated(scenario) == pytest.approx(LIMITS.write_timeout)


def test_half_an_answer_is_not_turned_into_another_when_the_server_stops(client: AsgiClient) -> None:
    async def scenario() -> None:
        call = client.call("GET", "/timeout", [b""])
        call.reads = False
        serving = asyncio.create_task(client.run(call))
        await asyncio.sleep(1)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert [message["type"] for message in call.sent] == ["http.response.start"]

    assert simulated(scenario) == pytest.approx(1)


async def test_an_answer_before_a_body_closes_the_connection_only_when_there_is_one(client: AsgiClient) -> None:
    assert "connection" not in (await client.request("GET", "/nowhere")).headers
    assert (await client.request("POST", "/nowhere", body=b"body")).headers["connection"] == "close"


@pytest.mark.parametrize(("given", "seconds"), [("1", "0.001"), ("1500", "1.5"), ("86400000", "86400.0")])
async def test_a_deadline_header_is_in_milliseconds(client: AsgiClient, given: str, seconds: str) -> None:
    answer = await client.request("GET", "/timeout", headers={"x-deadline-ms": given})
    assert answer.body.decode() == seconds


@pytest.mark.parametrize("given", ["0", "-1", "1.5", "soon", "", "86400001", "9" * 30, "٣"])
async def test_a_deadline_header_that_is_not_a_whole_number_in_range_is_refused(client: AsgiClient, given: str) -> None:
    answer = await client.request("GET", "/timeout", headers={"x-deadline-ms": given})
    assert answer.status == 400
    assert answer.json()["error"]["param"] == "x-deadline-ms"


async def test_without_a_deadline_header_the_server_decides(client: AsgiClient) -> None:
    assert (await client.request("GET", "/timeout")).body == b"None"
