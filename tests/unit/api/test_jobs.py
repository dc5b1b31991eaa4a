"""Jobs over HTTP: ordered, watched, resumed, cancelled; their answers are the surfaces' own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.api.app import build_app
from shoal.api.limits import ApiLimits
from shoal.api.testing import Answer, AsgiClient, Call, FakePlane, speak
from shoal.clock import ManualClockLoop, now
from shoal.config import JobsConfig
from shoal.coordinator.admission import Admission
from shoal.coordinator.jobs import Jobs
from shoal.errors import EngineFailed, Overloaded
from shoal.messages import Chunk, Generate

CHAT = {"model": "smollm2", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "seed": 5}
URL = "/v1/chat/completions"
ORDER = {"url": URL, "body": CHAT}


class Server:
    """The application with jobs, and what tests ask of it."""

    def __init__(self, plane: FakePlane, *, max_running: int = 4, **config: Any) -> None:
        self.plane = plane
        self.jobs = Jobs(JobsConfig(**config), admission=Admission(9), max_running=max_running)
        limits = ApiLimits(body_bytes=100_000)
        self.client = AsgiClient(build_app(plane, metrics=bytes, jobs=self.jobs, limits=limits))

    async def order(self, *, headers: dict[str, str] | None = None, **fields: Any) -> Any:
        answer = await self.client.request("POST", "/v1/jobs", json=ORDER | fields, headers=headers)
        assert answer.status == 202, answer.body
        return answer.json()

    async def get(self, job_id: str) -> Answer:
        return await self.client.request("GET", f"/v1/jobs/{job_id}")

    async def events(self, job_id: str, seen: str = "") -> Answer:
        headers = {"last-event-id": seen} if seen else None
        return await self.client.request("GET", f"/v1/jobs/{job_id}/events", headers=headers)

    async def finished(self, job_id: str) -> Any:
        await self.events(job_id)  # they end with the job
        return (await self.get(job_id)).json()


@pytest.fixture
async def server(plane: FakePlane) -> AsyncIterator[Server]:
    server = Server(plane)
    yield server
    await server.jobs.close()


def read(answer: Answer) -> list[dict[str, str]]:
    """The events as an EventSource gives them out: id, event, data."""
    found = []
    for block in answer.body.decode().split("\n\n"):
        lines = [line.partition(": ") for line in block.split("\n") if line and not line.startswith(":")]
        fields = {name: value for name, _, value in lines}
        if "data" in fields:
            found.append({"event": "message"} | fields)
    return found


def endless(request: Generate) -> AsyncGenerator[Chunk, None]:
    async def talk() -> AsyncGenerator[Chunk, None]:
        while True:
            yield Chunk("x", (1,))
            await asyncio.sleep(0.001)

    return talk()


async def test_a_job_is_ordered_and_its_answer_fetched(server: Server) -> None:
    answer = await server.client.request("POST", "/v1/jobs", json=ORDER | {"method": "POST"})
    job = answer.json()
    assert answer.status == 202
    assert answer.headers["location"] == f"/v1/jobs/{job['request_id']}"
    assert answer.headers["retry-after"] == "1"
    assert (job["object"], job["url"], job["response"], job["finished_at"]) == ("job", URL, None, None)
    assert job["state"] in ("queued", "running")
    done = await server.finished(job["request_id"])
    assert done["state"] == "succeeded"
    assert done["created_at"] <= done["started_at"] <= done["finished_at"]
    assert "retry-after" not in (await server.get(job["request_id"])).headers


@pytest.mark.parametrize(
    ("url", "body"),
    [
        (URL, CHAT),
        (URL, CHAT | {"n": 3, "logprobs": True, "top_logprobs": 2}),
        (URL, CHAT | {"stream": True}),
        (URL, CHAT | {"response_format": {"type": "json_object"}}),
        ("/v1/completions", {"model": "smollm2", "prompt": ["a", "b"], "logprobs": 2, "max_tokens": 3, "seed": 1}),
        ("/v1/embeddings", {"model": "minilm", "input": ["one", "two"]}),
        (URL, CHAT | {"temperature": 9}),
        (URL, CHAT | {"model": "nobody"}),
        ("/v1/embeddings", {"model": "minilm"}),
        (URL, ["not an object"]),
    ],
)
async def test_the_response_is_what_the_surface_would_have_answered(server: Server, url: str, body: Any) -> None:
    job = await server.order(url=url, body=body)
    done = await server.finished(job["request_id"])
    alone = {key: value for key, value in body.items() if key != "stream"} if isinstance(body, dict) else body
    headers = {"x-request-id": job["request_id"]}
    direct = await server.client.request("POST", url, json=alone, headers=headers)
    response = done["response"]
    for said in (response["body"], direct_body := direct.json()):
        said.pop("created", None)  # they may differ by a second
    assert response == {"status_code": direct.status, "request_id": job["request_id"], "body": direct_body}
    assert done["state"] == ("succeeded" if direct.status == 200 else "failed")


async def test_the_events_are_those_of_a_stream_between_the_states(server: Server) -> None:
    job = await server.order()
    events = read(await server.events(job["request_id"]))
    streamed = await server.client.request(
        "POST", URL, json=CHAT | {"stream": True}, headers={"x-request-id": job["request_id"]}
    )
    states = [msgspec.json.decode(event["data"])["state"] for event in events if event["event"] == "state"]
    assert states == ["queued", "running", "succeeded"]
    said = [event["data"] for event in events if event["event"] == "message"]
    assert len(said) == len(streamed.events())
    assert said[-1] == "[DONE]"
    for ours, theirs in zip(said[:-1], streamed.events()[:-1], strict=True):
        assert msgspec.json.decode(ours) | {"created": 0} == theirs | {"created": 0}
    assert [event["id"] for event in events] == [f"{job['request_id']}:{at}" for at in range(1, len(events) + 1)]


async def test_events_can_be_read_from_any_point_and_again(server: Server) -> None:
    job_id = (await server.order())["request_id"]
    answer = await server.events(job_id)
    events = read(answer)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.body.startswith(b"retry: 1000\n\n")
    assert read(await server.events(job_id)) == events
    for at, event in enumerate(events[:-1]):
        assert read(await server.events(job_id, event["id"])) == events[at + 1 :]
    assert (await server.events(job_id, events[-1]["id"])).status == 204, "an EventSource does not come back then"


async def test_readers_come_while_it_runs_and_leave_without_disturbing_it(server: Server, plane: FakePlane) -> None:
    go = asyncio.Event()

    async def waits(request: Generate) -> AsyncGenerator[Chunk, None]:
        yield Chunk("so far", (1,))
        await go.wait()
        async for chunk in speak(request):
            yield chunk

    plane.script = waits
    job_id = (await server.order())["request_id"]
    leaves, stays = (server.client.call("GET", f"/v1/jobs/{job_id}/events", [b""]) for _ in range(2))
    serving = [asyncio.create_task(server.client.run(call)) for call in (leaves, stays)]
    for call in (leaves, stays):
        while b"so far" not in call.answer.body:
            await call.until_body(len(call.answer.body) + 1)
    leaves.gone.set()
    await asyncio.wait_for(serving[0], 5)
    assert plane.running
    assert (await server.get(job_id)).json()["state"] == "running"
    go.set()
    await asyncio.wait_for(serving[1], 5)
    seen = read(leaves.answer)[-1]["id"]
    assert read(leaves.answer) + read(await server.events(job_id, seen)) == read(stays.answer)
    assert (await server.get(job_id)).json()["state"] == "succeeded"


async def test_deleting_a_running_job_frees_the_engine_and_tells_the_readers(server: Server, plane: FakePlane) -> None:
    plane.script = endless
    job_id = (await server.order(body=CHAT | {"n": 2}))["request_id"]
    reading = asyncio.create_task(server.events(job_id))
    while len(plane.running) < 2:
        await asyncio.sleep(0)
    answer = await server.client.request("DELETE", f"/v1/jobs/{job_id}")
    assert (answer.status, answer.json()["state"], answer.json()["response"]) == (200, "cancelled", None)
    events = read(await asyncio.wait_for(reading, 5))
    assert events[-1]["event"] == "state"
    assert msgspec.json.decode(events[-1]["data"]) == {"state": "cancelled"}
    assert not plane.running
    assert len(plane.cut) == 2
    assert (await server.get(job_id)).json()["state"] == "cancelled"
    assert (await server.client.request("DELETE", f"/v1/jobs/{job_id}")).json()["state"] == "cancelled"
    assert (await server.get(job_id)).status == 404


async def test_an_error_within_a_stream_is_the_jobs_response(server: Server, plane: FakePlane) -> None:
    async def breaks(request: Generate) -> AsyncGenerator[Chunk, None]:
        yield Chunk("so far", (1,))
        raise EngineFailed("the engine broke")

    plane.script = breaks
    job_id = (await server.order())["request_id"]
    done = await server.finished(job_id)
    assert done["state"] == "failed"
    assert done["response"]["status_code"] == 500
    assert done["response"]["body"]["error"]["code"] == "engine_failed"
    messages = [event["data"] for event in read(await server.events(job_id)) if event["event"] == "message"]
    assert msgspec.json.decode(messages[-1]) == done["response"]["body"]


async def test_a_key_gets_the_same_job(server: Server, plane: FakePlane) -> None:
    headers = {"idempotency-key": "k-1"}
    first, again = [await server.order(headers=headers) for _ in range(2)]
    assert first["request_id"] == again["request_id"]
    await server.finished(first["request_id"])
    assert len(plane.generated) == 1
    answer = await server.client.request("POST", "/v1/jobs", json=ORDER | {"body": {}}, headers=headers)
    assert (answer.status, answer.json()["error"]["param"]) == (409, "idempotency-key")


async def test_priority_and_trace_go_with_the_job(server: Server, plane: FakePlane) -> None:
    job = await server.order(headers={"x-priority": "7", "x-deadline-ms": "5000"})
    await server.finished(job["request_id"])
    assert plane.generated[0].priority == 7
    assert plane.generated[0].request_id == job["request_id"]
    assert plane.timeouts[0] == pytest.approx(5, abs=1)


@pytest.mark.parametrize(
    ("fields", "headers", "param"),
    [
        ({"url": None}, {}, "url"),
        ({"url": ""}, {}, "url"),
        ({"url": "/v1/nothing"}, {}, "url"),
        ({"url": "/v1/models"}, {}, "url"),
        ({"url": "/v1/jobs"}, {}, "url"),
        ({"url": "/metrics"}, {}, "url"),
        ({"url": "https://example.com/v1/completions"}, {}, "url"),
        ({"method": "GET"}, {}, "method"),
        ({}, {"idempotency-key": ""}, "idempotency-key"),
        ({}, {"idempotency-key": "a b"}, "idempotency-key"),
        ({}, {"idempotency-key": "x" * 256}, "idempotency-key"),
        ({}, {"x-deadline-ms": "soon"}, "x-deadline-ms"),
        ({}, {"x-priority": "high"}, "x-priority"),
    ],
)
async def test_a_wrong_order_is_refused_by_the_name_of_the_field(
    server: Server, fields: dict[str, Any], headers: dict[str, str], param: str
) -> None:
    answer = await server.client.request("POST", "/v1/jobs", json=ORDER | fields, headers=headers)
    assert (answer.status, answer.json()["error"]["param"]) == (400, param)


async def test_an_order_without_a_body_and_one_too_large_are_refused(server: Server) -> None:
    answer = await server.client.request("POST", "/v1/jobs", json={"url": URL})
    assert (answer.status, answer.json()["error"]["param"]) == (400, "body")
    answer = await server.client.request("POST", "/v1/jobs", json=ORDER | {"body": "x" * 100_000})
    assert answer.status == 413


@pytest.mark.parametrize("path", ["/v1/jobs/job-1", "/v1/jobs/job-1/events", "/v1/jobs/", "/v1/jobs//events"])
async def test_an_unknown_job_is_not_found(server: Server, path: str) -> None:
    assert (await server.client.request("GET", path)).status == 404


@pytest.mark.parametrize("seen", ["7", "other:1", "{id}:99", "{id}:x", "{id}:", "{id}:-1", "{id}:1 "])
async def test_an_event_that_never_was_cannot_be_resumed_from(server: Server, seen: str) -> None:
    job_id = (await server.order())["request_id"]
    await server.finished(job_id)
    answer = await server.events(job_id, seen.replace("{id}", job_id))
    assert (answer.status, answer.json()["error"]["param"]) == (400, "last-event-id")


async def test_beyond_the_bound_orders_are_refused(plane: FakePlane) -> None:
    plane.script = endless
    server = Server(plane, max_jobs=2)
    for _ in range(2):
        await server.order()
    answer = await server.client.request("POST", "/v1/jobs", json=ORDER)
    assert answer.status == 429
    assert int(answer.headers["retry-after"]) >= 1
    await server.jobs.close()


async def test_events_that_had_to_go_are_gone(plane: FakePlane) -> None:
    server = Server(plane, max_bytes=3000)
    job_id = (await server.order(body=CHAT | {"max_tokens": 20}))["request_id"]
    while not server.jobs.get(job_id).final:
        await asyncio.sleep(0)
    answer = await server.events(job_id)
    assert answer.status == 410
    assert answer.json()["error"]["code"] == "events_gone"
    assert (await server.get(job_id)).json()["response"]["status_code"] == 200
    await server.jobs.close()


def test_a_job_waits_where_a_request_would_be_refused() -> None:
    async def test() -> None:
        async def full(request: Generate) -> AsyncGenerator[Chunk, None]:
            if now() < 60:
                raise Overloaded("all places are taken", retry_after=1)
            async for chunk in speak(request):
                yield chunk

        server = Server(FakePlane(full))
        patient = await server.order(body=CHAT | {"n": 2})
        hasty = await server.order(headers={"x-deadline-ms": "20000"})
        direct = await server.client.request("POST", URL, json=CHAT)
        assert direct.status == 429
        reading = asyncio.create_task(server.events(patient["request_id"]))
        assert (await server.finished(hasty["request_id"]))["response"]["status_code"] == 504
        assert 20 <= now() < 21
        assert read(await reading)[-1]["event"] == "state"
        assert b"\n\n: \n\n" in (await reading).body, "the connection is kept alive"
        assert (await server.get(patient["request_id"])).json()["response"]["status_code"] == 200
        assert 60 <= now() < 80
        assert len(server.plane.generated) < 40, "the pauses grow"
        await server.jobs.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with asyncio.Runner(loop_factory=ManualClockLoop) as runner:
        runner.run(test())


# -- odd orders

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.text(max_size=8) | st.just(URL) | st.just(CHAT),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["url", "body", "model"]), inner),
    max_leaves=6,
)


@given(body=values.map(msgspec.json.encode) | st.binary(max_size=64), order=st.booleans(), seen=st.binary(max_size=20))
@settings(max_examples=100, deadline=None)
def test_no_order_and_no_event_id_is_answered_with_a_5xx(body: bytes, order: bool, seen: bytes) -> None:
    async def test() -> None:
        server = Server(FakePlane())
        given = b'{"url":"/v1/chat/completions","body":%b}' % body if order else body
        answer = await server.client.request("POST", "/v1/jobs", body=given)
        assert answer.status < 500, answer.body
        if answer.status == 202:
            job_id = answer.json()["request_id"]
            assert (await server.finished(job_id))["response"]["status_code"] < 500
            call = Call(
                {
                    "type": "http",
                    "method": "GET",
                    "path": f"/v1/jobs/{job_id}/events",
                    "headers": [(b"last-event-id", seen)],
                },
                [b""],
            )
            await server.client.run(call)
            assert call.answer.status in (200, 204, 400)
        await server.jobs.close()

    asyncio.run(test())


async def test_an_inference_can_be_a_job(server: Server) -> None:
    body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["one fish"]}]}
    ordered = await server.order(url="/v2/models/minilm/infer", body=body)
    response = (await server.finished(ordered["request_id"]))["response"]
    assert response["status_code"] == 200
    assert [output["name"] for output in response["body"]["outputs"]] == ["embedding", "tokens"]
