from __future__ import annotations

import dataclasses

from shoal.api.testing import MODELS, AsgiClient, FakePlane


async def test_live_is_always_200(client: AsgiClient, plane: FakePlane) -> None:
    plane.served = ()
    assert (await client.request("GET", "/health/live")).status == 200


async def test_ready_is_200_when_a_worker_is(client: AsgiClient) -> None:
    answer = await client.request("GET", "/health/ready")
    assert (answer.status, answer.json()) == (200, {"status": "ready"})


async def test_not_ready_is_503_and_says_what_it_waits_for(client: AsgiClient, plane: FakePlane) -> None:
    plane.served = [dataclasses.replace(model, ready=False) for model in MODELS]
    answer = await client.request("GET", "/health/ready")
    assert answer.status == 503
    assert answer.json() == {
        "status": "not_ready",
        "reason": "no worker is ready; waiting for smollm2, minilm",
    }


async def test_not_ready_says_what_failed_and_why(client: AsgiClient, plane: FakePlane) -> None:
    loading, failed = (dataclasses.replace(model, ready=False) for model in MODELS)
    plane.served = [loading, dataclasses.replace(failed, failed=True, reason="no such file")]
    answer = await client.request("GET", "/health/ready")
    assert answer.json()["reason"] == "no worker is ready; waiting for smollm2; minilm failed: no such file"


async def test_metrics_are_passed_on_as_they_are(client: AsgiClient) -> None:
    answer = await client.request("GET", "/metrics")
    assert answer.body == b"shoal_up 1\n"
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


async def test_ready_names_the_models_that_failed(client: AsgiClient, plane: FakePlane) -> None:
    plane.served = [MODELS[0], dataclasses.replace(MODELS[1], ready=False, failed=True)]
    answer = await client.request("GET", "/health/ready")
    assert (answer.status, answer.json()) == (200, {"status": "ready", "failed": ["minilm"]})


async def test_not_ready_tells_what_failed_from_what_is_to_come_and_what_has_left(
    client: AsgiClient, plane: FakePlane
) -> None:
    ready, other = (dataclasses.replace(model, ready=False) for model in MODELS)
    plane.served = [
        ready,
        dataclasses.replace(other, failed=True, reason="no file"),
        dataclasses.replace(other, name="left", absent=True),
    ]
    answer = await client.request("GET", "/health/ready")
    assert answer.json()["reason"] == "no worker is ready; waiting for smollm2; minilm failed: no file"
