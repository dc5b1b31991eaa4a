"""A real server's streams, cut and resumed: by httpx, by OpenAI's own client, and by Shoal's."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import OpenAI

import shoal

ASK: dict[str, Any] = {
    "model": "smollm2",
    "messages": [{"role": "user", "content": "Tell me a story about a whale."}],
    "seed": 7,
    "temperature": 1.0,
    "max_tokens": 120,
    "stream": True,
}
LONG = ASK | {"max_tokens": 2000, "ignore_eos": True}
URL = "/v1/chat/completions"
CAN_RESUME = {"last-event-id": ""}


@pytest.fixture(scope="module")
def http(shoal_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=shoal_url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def openai_client(shoal_url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{shoal_url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


def events(http: httpx.Client, headers: dict[str, str], most: int = 10**6, body: Any = ASK) -> list[tuple[str, str]]:
    """(id, data) of the first so many events; then the connection is closed."""
    found: list[tuple[str, str]] = []
    with http.stream("POST", URL, json=body, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        name = ""
        for line in answer.iter_lines():
            field, _, value = line.partition(": ")
            if field == "id":
                name = value
            elif field == "data":
                found.append((name, value))
                if len(found) == most:
                    break
    return found


def metric(http: httpx.Client, name: str) -> float:
    return sum(
        float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", http.get("/metrics").text, re.MULTILINE)
    )


def until(condition: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_stream_that_is_cut_again_and_again_is_the_unbroken_one(http: httpx.Client) -> None:
    computed = metric(http, "shoal_requests_total")
    had = events(http, CAN_RESUME, 5)
    while had[-1][1] != "[DONE]":
        had += events(http, {"last-event-id": had[-1][0]}, 20)
    name = had[0][0].partition(":")[0]
    assert had == events(http, {"last-event-id": f"{name}:0"})
    assert [number for number, _ in had] == [f"{name}:{number}" for number in range(1, len(had) + 1)]
    assert metric(http, "shoal_requests_total") == computed + 1, "it was computed once"


def test_a_client_that_cannot_come_back_stops_the_computing_at_once(http: httpx.Client) -> None:
    assert all(name == "" for name, _ in events(http, {}, 3, LONG))
    until(lambda: metric(http, "shoal_in_flight_requests") == 0, 2)


def test_one_that_can_is_waited_for(http: httpx.Client) -> None:
    had = events(http, CAN_RESUME, 3, LONG | {"max_tokens": 200})
    time.sleep(0.3)
    assert metric(http, "shoal_in_flight_requests") == 1
    rest = events(http, {"last-event-id": had[-1][0]}, body=None)
    assert rest[-1][1] == "[DONE]"
    assert rest[0][0].endswith(":4")


def test_a_repeat_gets_the_same_answer_also_where_it_is_drawn_at_random(http: httpx.Client) -> None:
    ask = ASK | {"stream": False, "seed": None, "max_tokens": 20}
    headers = {"idempotency-key": "a-story"}
    first, again = [http.post(URL, json=ask, headers=headers) for _ in range(2)]
    assert first.content == again.content
    other = http.post(URL, json=ask | {"max_tokens": 21}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "conflict")
    embed = {"model": "minilm", "input": "one fish"}
    one, two = [http.post("/v1/embeddings", json=embed, headers={"idempotency-key": "e"}) for _ in range(2)]
    assert one.json() == two.json()


def test_a_stream_that_nobody_keeps_is_gone(http: httpx.Client) -> None:
    answer = http.post(URL, json=ASK, headers={"last-event-id": "0123456789abcdef:3"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (410, "events_gone")


def test_openais_client_is_not_disturbed_by_the_ids_and_can_resume(openai_client: OpenAI) -> None:
    ask = ASK | {"temperature": 0}
    create = openai_client.chat.completions.create
    plain = [chunk.choices[0].delta for chunk in create(**ask)]
    kept = [chunk.choices[0].delta for chunk in create(**ask, extra_headers=CAN_RESUME)]
    assert "".join(delta.content or "" for delta in kept) == "".join(delta.content or "" for delta in plain)
    seen, had = "", ""
    with openai_client.chat.completions.with_streaming_response.create(**ask, extra_headers=CAN_RESUME) as answer:
        for line in answer.iter_lines():
            if line.startswith("id: "):
                seen = line.removeprefix("id: ")
            if line.startswith("data: ") and len(had) < 400:
                had += line
            elif len(had) >= 400:
                break
    rest = list(create(**ask, extra_headers={"last-event-id": seen}))
    assert rest
    assert rest[-1].choices[0].finish_reason is not None


def test_openais_client_repeats_a_stream_with_its_key(openai_client: OpenAI) -> None:
    ask = ASK | {"seed": None}
    headers = {"idempotency-key": "a-stream"}
    with openai_client.chat.completions.create(**ask, extra_headers=headers) as cut:
        had = [next(cut) for _ in range(5)]
    again = list(openai_client.chat.completions.create(**ask, extra_headers=headers))
    assert again[:5] == had
    assert again[-1].choices[0].finish_reason is not None


def test_shoals_client_does_it_by_itself(served: tuple[str, Any], http: httpx.Client) -> None:
    sampling = {"seed": 7, "max_tokens": 120, "temperature": 1.0}
    with shoal.Client(served[0]) as client:
        whole = client.generate(ASK["messages"], model="smollm2", **sampling)
        resumed = metric(http, "shoal_kept_answers_taken_up_total")
        text = ""
        for number, chunk in enumerate(client.stream(ASK["messages"], model="smollm2", **sampling)):
            text += chunk.text
            if number in (5, 20):
                cut(client)
        assert text == whole.text
    assert metric(http, "shoal_kept_answers_taken_up_total") == resumed + 2


def cut(client: shoal.Client) -> None:
    """Break its connection without a word."""
    connection = client._client._connection
    assert connection is not None
    assert connection._transport is not None
    assert client._loop is not None
    client._loop.call_soon_threadsafe(connection._transport.abort)
