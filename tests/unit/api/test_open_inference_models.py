"""What the protocol says of the server and its models."""

from __future__ import annotations

import dataclasses

import pytest

from shoal.api.app import build_app
from shoal.api.plane import ServedModel
from shoal.api.testing import ECHO, MODELS, WIDTH, AsgiClient, FakePlane
from shoal.types import ModelKind, TensorSpec

OLD = ServedModel("echo", ModelKind.TENSOR, ready=False, created=1, version="0", live=False)


@pytest.fixture
def plane() -> FakePlane:
    return FakePlane(models=(*MODELS, ECHO, OLD))


@pytest.fixture
def client(plane: FakePlane) -> AsgiClient:
    return AsgiClient(build_app(plane, metrics=bytes))


async def test_the_server_says_what_it_is(client: AsgiClient) -> None:
    body = (await client.request("GET", "/v2")).json()
    assert body["name"] == "shoal"
    assert body["version"]
    assert "binary_tensor_data" in body["extensions"]


async def test_a_server_that_is_not_ready_is_alive(client: AsgiClient, plane: FakePlane) -> None:
    assert (await client.request("GET", "/v2/health/live")).json() == {"live": True}
    assert (await client.request("GET", "/v2/health/ready")).json() == {"ready": True}
    plane.served = [OLD]
    assert (await client.request("GET", "/v2/health/live")).status == 200
    answer = await client.request("GET", "/v2/health/ready")
    assert answer.status == 503
    assert "waits for echo" in answer.json()["error"]


async def test_metadata_names_inputs_outputs_and_versions(client: AsgiClient) -> None:
    assert (await client.request("GET", "/v2/models/minilm")).json() == {
        "name": "minilm",
        "versions": ["1"],
        "platform": "shoal",
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1, 1]}],
        "outputs": [
            {"name": "embedding", "datatype": "FP32", "shape": [-1, WIDTH]},
            {"name": "tokens", "datatype": "INT64", "shape": [-1]},
        ],
    }
    body = (await client.request("GET", "/v2/models/echo/versions/0")).json()
    assert (body["versions"], body["inputs"]) == (["1", "0"], [])


async def test_an_alias_has_the_metadata_of_its_model(client: AsgiClient) -> None:
    assert (await client.request("GET", "/v2/models/default")).json()["name"] == "smollm2"


async def test_a_version_is_ready_for_itself(client: AsgiClient) -> None:
    assert (await client.request("GET", "/v2/models/echo/ready")).json() == {"name": "echo", "ready": True}
    assert (await client.request("GET", "/v2/models/echo/versions/1/ready")).status == 200
    answer = await client.request("GET", "/v2/models/echo/versions/0/ready")
    assert answer.status == 503
    assert answer.json()["error"] == "model 'echo@0' is ready on no worker"


async def test_a_configuration_is_in_tritons_words(client: AsgiClient) -> None:
    body = (await client.request("GET", "/v2/models/minilm/config")).json()
    assert body["max_batch_size"] == 32
    assert body["input"] == [{"name": "text", "data_type": "TYPE_STRING", "dims": [1]}]
    assert body["output"][0] == {"name": "embedding", "data_type": "TYPE_FP32", "dims": [WIDTH]}
    assert (await client.request("GET", "/v2/models/echo/config")).json()["max_batch_size"] == 0


async def test_a_model_that_says_that_its_rows_are_no_batch_has_all_its_dimensions(
    client: AsgiClient, plane: FakePlane
) -> None:
    x, y = TensorSpec("x", "FP32", (4,)), TensorSpec("y", "FP32", (4, 2))
    plane.served = [
        ServedModel("solo", ModelKind.TENSOR, ready=True, created=1, inputs=(x,), outputs=(y,), batchable=False)
    ]
    body = (await client.request("GET", "/v2/models/solo/config")).json()
    assert (body["max_batch_size"], body["input"][0]["dims"], body["output"][0]["dims"]) == (0, [4], [4, 2])


async def test_the_index_lists_every_version(client: AsgiClient) -> None:
    everything = (await client.request("POST", "/v2/repository/index")).json()
    assert [(entry["name"], entry["version"], entry["state"]) for entry in everything] == [
        ("smollm2", "1", "READY"),
        ("minilm", "1", "READY"),
        ("echo", "1", "READY"),
        ("echo", "0", "UNAVAILABLE"),
    ]
    ready = (await client.request("POST", "/v2/repository/index", json={"ready": True})).json()
    assert len(ready) == 3
    assert (await client.request("POST", "/v2/repository/index", json={"ready": 1})).status == 400


@pytest.mark.parametrize("below", ["", "/ready", "/config", "/versions/9", "/versions/9/ready", "/versions/9/config"])
@pytest.mark.parametrize("name", ["echo", "nobody"])
async def test_an_unknown_model_or_version_is_404(client: AsgiClient, name: str, below: str) -> None:
    if name == "echo" and "versions" not in below:
        below = f"/versions/9{below}"
    answer = await client.request("GET", f"/v2/models/{name}{below}")
    assert answer.status == 404
    assert answer.json()["code"] == "model_not_found"
    assert name in answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/v2/systemsharedmemory/region/a/register", "binary data"),
        ("/v2/cudasharedmemory/status", "binary data"),
        ("/v2/repository/models/echo/load", "/admin/models"),
        ("/v2/models/echo/stats", "/metrics"),
        ("/v2/models/stats/x", "/metrics"),
        ("/v2/logging", "logging"),
        ("/v2/trace/setting", "OpenTelemetry"),
    ],
)
async def test_what_triton_has_and_shoal_has_not_is_404_with_the_reason(
    client: AsgiClient, path: str, word: str
) -> None:
    answer = await client.request("POST", path, body=b"{}")
    assert answer.status == 404
    assert word in answer.json()["error"]


async def test_every_error_below_v2_has_the_protocols_shape(client: AsgiClient, plane: FakePlane) -> None:
    wrong = await client.request("DELETE", "/v2/models/echo", headers={"x-request-id": "seven"})
    assert (wrong.status, wrong.headers["allow"]) == (405, "GET")
    assert wrong.json() == {
        "error": "/v2/models/echo answers to GET, not to DELETE",
        "code": "method_not_allowed",
        "param": None,
        "fault": "client",
        "retryable": False,
        "request_id": "seven",
    }
    assert isinstance((await client.request("GET", "/v2x")).json()["error"], dict), "elsewhere it is OpenAI's"


async def test_a_model_that_is_not_ready_asks_to_come_back(client: AsgiClient, plane: FakePlane) -> None:
    plane.served = [dataclasses.replace(ECHO, ready=False)]
    asked = {"inputs": [{"name": "input", "shape": [1], "datatype": "INT8", "data": [1]}]}
    answer = await client.request("POST", "/v2/models/echo/infer", json=asked)
    assert (answer.status, answer.headers["retry-after"]) == (503, "2")
