"""Clients that come back over HTTP: they miss nothing, get nothing twice, and find nothing that is not theirs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from shoal.api.app import build_app
from shoal.api.limits import ApiLimits
from shoal.api.testing import Answer, AsgiClient, Call, FakePlane, speak
from shoal.config import KeepConfig
from shoal.coordinator.keeper import Keeper
from shoal.errors import EngineFailed
from shoal.messages import Chunk, Generate
from shoal.telemetry import KeptMetrics

CHAT = {"model": "smollm2", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 6, "seed": 5}
STREAM = CHAT | {"stream": True}
URL = "/v1/chat/completions"
TEXT = {"model": "smollm2", "prompt": ["a", "b"], "max_tokens": 5, "logprobs": 2, "stream": True}
CAN_RESUME = {"last-event-id": ""}


class Server:
    """The application with a keeper, and what tests ask of it."""

    def __init__(self, plane: FakePlane, **config: Any) -> None:
        self.plane = plane
        self.registry = CollectorRegistry()
        self.keeper = Keeper(KeepConfig(**config), KeptMetrics(self.registry))
        limits = ApiLimits(body_bytes=100_000, tensor_bytes=200_000, all_bodies_bytes=150_000)
        self.client = AsgiClient(build_app(plane, metrics=bytes, keeper=self.keeper, limits=limits))

    async def post(self, body: Any = STREAM, url: str = URL, **headers: str) -> Answer:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.request("POST", url, json=body, headers=given)

    def call(self, body: Any = STREAM, url: str = URL, **headers: str) -> Call:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.call("POST", url, [msgspec.json.encode(body)], headers=given)

    async def cut(self, size: int = 1, **headers: str) -> Call:
        """A client that leaves when it has had that many bytes."""
        call = self.call(**headers)
        serving = asyncio.create_task(self.client.run(call))
        await call.until_body(size)
        call.gone.set()
        await serving
        return call

    def count(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"shoal_kept_answers{name}", labels)


@pytest.fixture
async def server(plane: FakePlane) -> AsyncIterator[Server]:
    server = Server(plane)
    yield server
    await server.keeper.close()


def blocks(answer: Answer) -> list[bytes]:
    return [block + b"\n\n" for block in answer.body.split(b"\n\n") if block]


def ids(answer: Answer) -> list[str]:
    return [block.split(b"\n")[0].removeprefix(b"id: ").decode() for block in blocks(answer)]


def data(answer: Answer) -> list[bytes]:
    """Of each event, without what differs from one run to the next."""
    return [block.partition(b"data: ")[2] for block in blocks(answer)]


def slow(go: asyncio.Event) -> Any:
    async def talk(request: Generate) -> AsyncGenerator[Chunk, None]:
        async for chunk in speak(request):
            yield chunk
            if chunk.tokens == (2,):
                await go.wait()

    return talk


@pytest.mark.parametrize(("url", "body"), [(URL, STREAM), (URL, STREAM | {"n": 2}), ("/v1/completions", TEXT)])
async def test_the_events_of_a_client_that_can_come_back_have_ids_and_are_otherwise_the_same(
    server: Server, url: str, body: Any
) -> None:
    plain = await server.post(body, url, x_request_id="r")
    kept = await server.post(body, url, x_request_id="r", **{"last-event-id": ""})
    assert b"id: " not in plain.body
    assert server.count("") == 1, "nothing is kept of the first"
    name = ids(kept)[0].partition(":")[0]
    assert ids(kept) == [f"{name}:{number}" for number in range(1, len(ids(kept)) + 1)]
    assert sorted(map(strip, data(kept))) == sorted(map(strip, blocks_of_plain(plain)))
    assert {key: kept.headers[key] for key in plain.headers} == plain.headers


def blocks_of_plain(answer: Answer) -> list[bytes]:
    return [block.removeprefix(b"data: ") for block in blocks(answer)]


def strip(event: bytes) -> bytes:
    """They may differ by a second."""
    if event == b"[DONE]\n\n":
        return event
    return msgspec.json.encode(msgspec.json.decode(event) | {"created": 0})


async def test_from_every_event_on_the_rest_is_the_same_to_the_byte(server: Server) -> None:
    whole = await server.post(**CAN_RESUME)
    for at, name in enumerate(ids(whole)):
        rest = await server.post(None, last_event_id=name)
        assert (rest.status, rest.body) == (200, b"".join(blocks(whole)[at + 1 :]))
        assert rest.headers == whole.headers
    assert len(server.plane.generated) == 1
    assert server.count("_taken_up_total", by="event_id") == len(ids(whole))


async def test_a_client_that_was_cut_off_gets_the_rest_of_what_went_on(server: Server) -> None:
    go = asyncio.Event()
    server.plane.script = slow(go)
    first = await server.cut(600, **CAN_RESUME)
    assert server.plane.running, "it goes on without its client"
    go.set()
    seen = ids(first.answer)[-1]
    rest = await server.post(last_event_id=seen)
    whole = await server.post(last_event_id=seen.partition(":")[0] + ":0")
    assert first.answer.body + rest.body == whole.body
    assert rest.body.endswith(b"data: [DONE]\n\n")
    assert len(server.plane.generated) == 1
    assert not server.plane.cut


async def test_a_whole_answer_without_a_key_has_no_name_and_is_not_kept(server: Server) -> None:
    assert (await server.post(CHAT, **CAN_RESUME)).status == 200
    assert server.count("") == 0


async def test_a_client_that_cannot_come_back_frees_the_engine_at_once(server: Server) -> None:
    server.plane.script = slow(asyncio.Event())
    await server.cut()
    assert not server.plane.running
    assert server.count("") == 0


async def test_one_that_left_before_it_had_an_id_frees_the_engine_too(server: Server) -> None:
    async def silent(request: Generate) -> AsyncGenerator[Chunk, None]:
        await asyncio.Event().wait()
        yield Chunk("", ())

    server.plane.script = silent
    call = server.call(**CAN_RESUME)
    serving = asyncio.create_task(server.client.run(call))
    while not server.plane.running:
        await asyncio.sleep(0)
    call.gone.set()
    await serving
    await asyncio.sleep(0.01)
    assert not server.plane.running


async def test_after_the_grace_period_the_engine_is_free_and_the_stream_is_gone(plane: FakePlane) -> None:
    server = Server(plane, grace=0.05)
    plane.script = slow(asyncio.Event())
    first = await server.cut(600, **CAN_RESUME)
    assert plane.running
    async with asyncio.timeout(5):
        while plane.running:
            await asyncio.sleep(0.01)
    assert len(plane.cut) == 1
    answer = await server.post(last_event_id=ids(first.answer)[-1])
    assert (answer.status, answer.json()["error"]["code"]) == (410, "events_gone")
    assert server.count("_abandoned_total") == 1


async def test_a_stream_is_found_with_the_same_credentials_and_address_alone(server: Server) -> None:
    whole = await server.post(authorization="Bearer a", **CAN_RESUME)
    seen = ids(whole)[0]
    for url, headers in [
        (URL, {}),
        (URL, {"authorization": "Bearer b"}),
        ("/v1/completions", {"authorization": "Bearer a"}),
    ]:
        assert (await server.post(None, url, last_event_id=seen, **headers)).status == 410
    stranger = {"authorization": "Bearer a", "x_tenant": "t"}  # that no trusted proxy named
    assert (await server.post(None, last_event_id=seen, **stranger)).status == 403
    assert (await server.post(None, authorization="Bearer a", last_event_id=seen)).status == 200


@pytest.mark.parametrize("seen", ["x", "{id}", "{id}:", "{id}:x", "{id}:-1", "{id}:999", "{id}:1 2", "*:1"])
async def test_an_event_that_never_was_is_refused(server: Server, seen: str) -> None:
    name = ids(await server.post(**CAN_RESUME))[0].partition(":")[0]
    answer = await server.post(None, last_event_id=seen.replace("{id}", name))
    assert (answer.status, answer.json()["error"]["param"]) == (400, "last-event-id")


async def test_a_stream_that_failed_ends_with_its_error_for_those_who_come_back_too(server: Server) -> None:
    async def breaks(request: Generate) -> AsyncGenerator[Chunk, None]:
        yield Chunk("so far", (1,))
        raise EngineFailed("the engine broke")

    server.plane.script = breaks
    whole = await server.post(idempotency_key="k")
    assert msgspec.json.decode(data(whole)[-1])["error"]["code"] == "engine_failed"
    assert (await server.post(last_event_id=ids(whole)[0])).body == b"".join(blocks(whole)[1:])
    server.plane.script = speak
    again = await server.post(idempotency_key="k")
    assert data(again)[-1] == b"[DONE]\n\n", "a failure is not what the key stands for"


# -- the same request, the same answer


@pytest.mark.parametrize(
    ("url", "body"),
    [
        (URL, STREAM),
        (URL, CHAT | {"temperature": 1.0, "seed": None}),
        ("/v1/completions", TEXT),
        ("/v1/embeddings", {"model": "minilm", "input": ["one", "two"]}),
        (
            "/v2/models/minilm/infer",
            {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["one fish"]}]},
        ),
    ],
)
async def test_a_repeat_gets_the_same_answer_and_nothing_is_computed(server: Server, url: str, body: Any) -> None:
    first, again = [await server.post(body, url, idempotency_key="k") for _ in range(2)]
    assert first.status == 200
    assert (first.body, first.headers) == (again.body, again.headers)
    assert len(server.plane.timeouts) == (2 if url == "/v1/completions" else 1), "one for each prompt"
    assert server.count("_taken_up_total", by="idempotency_key") == 1


async def test_a_whole_answer_is_what_it_is_without_a_key(server: Server) -> None:
    body = {"model": "minilm", "input": ["one", "two"]}
    plain = await server.post(body, "/v1/embeddings", x_request_id="r")
    kept = await server.post(body, "/v1/embeddings", x_request_id="r", idempotency_key="k")
    assert (kept.status, kept.body, kept.headers) == (plain.status, plain.body, plain.headers)


async def test_binary_tensors_are_kept_whole(server: Server) -> None:
    inputs = [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["one fish"]}]
    body = {"inputs": inputs, "parameters": {"binary_data_output": True}}
    url = "/v2/models/minilm/infer"
    plain, kept, again = [
        await server.post(body, url, x_request_id="r", **({} if key is None else {"idempotency-key": key}))
        for key in (None, "k", "k")
    ]
    assert "inference-header-content-length" in plain.headers
    assert (kept.body, kept.headers) == (plain.body, plain.headers) == (again.body, again.headers)


async def test_a_repeat_joins_the_one_that_runs_even_when_its_client_has_gone(server: Server) -> None:
    go = asyncio.Event()
    server.plane.script = slow(go)
    first = await server.cut(600, idempotency_key="k")
    joined = [asyncio.create_task(server.post(idempotency_key="k")) for _ in range(2)]
    await asyncio.sleep(0.01)
    go.set()
    one, two = await asyncio.gather(*joined)
    assert one.body == two.body
    assert one.body.startswith(first.answer.body)
    assert len(server.plane.generated) == 1


async def test_a_client_that_waits_for_a_whole_answer_may_come_back_for_it(server: Server) -> None:
    go = asyncio.Event()
    server.plane.script = slow(go)
    call = server.call(CHAT, idempotency_key="k")
    serving = asyncio.create_task(server.client.run(call))
    while not server.plane.running:
        await asyncio.sleep(0)
    call.gone.set()
    await serving
    assert server.plane.running
    go.set()
    assert (await server.post(CHAT, idempotency_key="k")).status == 200
    assert len(server.plane.generated) == 1


async def test_a_key_with_another_request_is_a_conflict(server: Server) -> None:
    await server.post(idempotency_key="k")
    for url, body in [(URL, CHAT), ("/v1/completions", STREAM)]:
        answer = await server.post(body, url, idempotency_key="k")
        assert (answer.status, answer.json()["error"]["param"]) == (409, "idempotency-key")
    assert (await server.post(CHAT, idempotency_key="k", authorization="Bearer b")).status == 200


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "é"])
async def test_a_key_that_is_none_is_refused(server: Server, key: str) -> None:
    answer = await server.post(idempotency_key=key)
    assert (answer.status, answer.json()["error"]["param"]) == (400, "idempotency-key")


async def test_an_error_is_not_what_a_key_stands_for(server: Server) -> None:
    refused = await server.post(CHAT | {"model": "nobody"}, idempotency_key="k")
    assert refused.status == 404
    assert server.count("") == 0
    assert (await server.post(CHAT, idempotency_key="k")).status == 200


async def test_who_joins_waits_no_longer_than_it_says(server: Server) -> None:
    go = asyncio.Event()
    server.plane.script = slow(go)
    first = asyncio.create_task(server.post(CHAT, idempotency_key="k"))
    while not server.plane.running:
        await asyncio.sleep(0)
    answer = await server.post(CHAT, idempotency_key="k", x_deadline_ms="20")
    assert (answer.status, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    go.set()
    assert (await first).status == 200


async def test_limits_are_those_of_the_surface_and_bodies_are_counted_once(server: Server) -> None:
    for key in ("a", "b"):
        assert (await server.post(CHAT | {"user": "x" * 90_000}, idempotency_key=key)).status == 200
    answer = await server.post(CHAT | {"user": "x" * 100_000}, idempotency_key="k")
    assert (answer.status, answer.json()["error"]["code"]) == (413, "payload_too_large")
    answer = await server.post(CHAT | {"user": "x" * 200_000}, idempotency_key="k")
    assert answer.status == 413


async def test_beyond_the_bound_no_more_is_promised(plane: FakePlane) -> None:
    server = Server(plane, max_answers=2)
    plane.script = slow(asyncio.Event())
    await server.cut(idempotency_key="a")
    answer = await server.post(idempotency_key="b")
    assert answer.status == 429
    assert int(answer.headers["retry-after"]) >= 1
    await server.keeper.close()


async def test_the_coordinators_end_is_told(server: Server) -> None:
    server.plane.script = slow(asyncio.Event())
    calls = [server.call(**headers) for headers in (CAN_RESUME, {"idempotency-key": "k"})]
    serving = [asyncio.create_task(server.client.run(call)) for call in calls]
    for call in calls:
        await call.until_body()
    await server.keeper.close()
    await asyncio.gather(*serving)
    for call in calls:
        assert msgspec.json.decode(data(call.answer)[-1])["error"]["code"] == "model_unavailable"
        assert call.ended


# -- cut anywhere, any number of times


@given(cuts=st.lists(st.integers(1, 4000), max_size=4), pause=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_however_often_it_is_cut_the_pieces_make_the_whole(cuts: list[int], pause: int) -> None:
    async def talk(request: Generate) -> AsyncGenerator[Chunk, None]:
        async for chunk in speak(request):
            for _ in range(pause):
                await asyncio.sleep(0)
            yield chunk

    async def test() -> None:
        server = Server(FakePlane(talk))
        body = STREAM | {"max_tokens": 20, "n": 2}
        had, seen = b"", ""
        for size in cuts:
            call = server.call(body, last_event_id=seen)
            serving = asyncio.create_task(server.client.run(call))
            await asyncio.wait([serving, asyncio.create_task(call.until_body(size))], return_when="FIRST_COMPLETED")
            call.gone.set()
            await serving
            had += call.answer.body
            seen = ids(call.answer)[-1] if call.answer.body else seen
        had += (await server.post(body, last_event_id=seen)).body
        whole = await server.post(body, last_event_id=ids(Answer(200, {}, had))[0].partition(":")[0] + ":0")
        assert had == whole.body
        assert len(server.plane.generated) == 2
        await server.keeper.close()

    asyncio.run(test())
