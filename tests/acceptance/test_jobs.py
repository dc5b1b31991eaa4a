"""Jobs on a real server, read by curl and by a client that does what a browser's EventSource does."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

ASK = {"model": "smollm2", "messages": [{"role": "user", "content": "Tell me a story about a whale."}], "seed": 7}
LONG = ASK | {"max_tokens": 2000, "ignore_eos": True}


@pytest.fixture(scope="module")
def http(shoal_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=shoal_url, timeout=60) as client:
        yield client


def order(http: httpx.Client, body: dict[str, Any], url: str = "/v1/chat/completions") -> str:
    answer = http.post("/v1/jobs", json={"url": url, "body": body})
    assert answer.status_code == 202, answer.text
    return str(answer.headers["location"])


def finished(http: httpx.Client, job: str) -> Any:
    while True:
        answer = http.get(job)
        if answer.json()["state"] not in ("queued", "running"):
            return answer.json()
        time.sleep(min(0.05, float(answer.headers["retry-after"])))


def events(http: httpx.Client, job: str, seen: str = "") -> Iterator[tuple[str, str, str]]:
    """(id, name, data) of each, by the rules of EventSource; ends when the server ends."""
    headers = {"last-event-id": seen} if seen else {}
    with http.stream("GET", f"{job}/events", headers=headers) as answer:
        assert answer.status_code == 200
        fields: dict[str, str] = {}
        for line in answer.iter_lines():
            if line.startswith(":"):
                continue
            if line:
                name, _, value = line.partition(":")
                fields[name] = value.removeprefix(" ")
            elif "data" in fields:
                yield fields["id"], fields.get("event", "message"), fields["data"]
                fields = {}


def test_a_job_answers_what_the_surface_answers(http: httpx.Client) -> None:
    ask = ASK | {"max_tokens": 12}
    done = finished(http, order(http, ask))
    direct = http.post("/v1/chat/completions", json=ask).json()
    assert done["state"] == "succeeded"
    assert done["response"]["body"]["choices"] == direct["choices"]
    assert done["response"]["body"]["usage"]["completion_tokens"] == direct["usage"]["completion_tokens"]
    embedded = finished(http, order(http, {"model": "minilm", "input": "fish"}, "/v1/embeddings"))
    assert len(embedded["response"]["body"]["data"][0]["embedding"]) == 384


def test_a_reader_that_was_killed_resumes_where_it_was(http: httpx.Client, shoal_url: str) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    job = order(http, LONG | {"max_tokens": 200})
    reader = subprocess.Popen([curl, "-sN", f"{shoal_url}{job}/events"], stdout=subprocess.PIPE, text=True)
    assert reader.stdout is not None
    seen = [line for line in (reader.stdout.readline() for _ in range(40)) if line.startswith("id: ")]
    reader.send_signal(signal.SIGKILL)
    reader.communicate()
    assert len(seen) >= 5
    last = seen[-1].removeprefix("id: ").strip()
    rest = list(events(http, job, last))
    whole = list(events(http, job))
    assert [name for name, _, _ in rest] == [name for name, _, _ in whole if number(name) > number(last)]
    assert json.loads(rest[-1][2]) == {"state": "succeeded"}
    said = "".join(delta(data) for _, name, data in whole if name == "message" and data != "[DONE]")
    assert said == finished(http, job)["response"]["body"]["choices"][0]["message"]["content"]
    assert http.get(f"{job}/events", headers={"last-event-id": whole[-1][0]}).status_code == 204


def test_a_deleted_job_frees_the_engine(http: httpx.Client) -> None:
    job = order(http, LONG)
    reading = events(http, job)
    while next(reading)[1] != "message":
        pass
    assert http.delete(job).json()["state"] == "cancelled"
    *_, (_, name, data) = reading
    assert (name, json.loads(data)) == ("state", {"state": "cancelled"})
    deadline = time.monotonic() + 5
    while metric(http, "shoal_in_flight_requests") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert metric(http, "shoal_in_flight_requests") == 0
    assert http.delete(job).status_code == 200
    assert http.get(job).status_code == 404


def test_many_jobs_at_once_all_end(http: httpx.Client) -> None:
    jobs = [order(http, ASK | {"max_tokens": 3, "seed": seed}) for seed in range(30)]
    assert {finished(http, job)["state"] for job in jobs} == {"succeeded"}


def metric(http: httpx.Client, name: str) -> float:
    return sum(
        float(line.rsplit(" ", 1)[1]) for line in http.get("/metrics").text.splitlines() if line.startswith(name)
    )


def number(event_id: str) -> int:
    return int(event_id.rpartition(":")[2])


def delta(data: str) -> str:
    return str(json.loads(data)["choices"][0]["delta"].get("content", ""))
