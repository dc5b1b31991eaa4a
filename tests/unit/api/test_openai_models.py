from __future__ import annotations

import pytest

from shoal.api.plane import ServedModel
from shoal.api.testing import AsgiClient, FakePlane
from shoal.types import ModelKind


async def test_models_and_their_aliases_are_listed(client: AsgiClient) -> None:
    body = (await client.request("GET", "/v1/models")).json()
    assert body["object"] == "list"
    assert [(model["id"], model["root"]) for model in body["data"]] == [
        ("smollm2", "smollm2"),
        ("default", "smollm2"),
        ("minilm", "minilm"),
    ]
    assert body["data"][0]["object"] == "model"
    assert body["data"][0]["created"] == 1_700_000_000


@pytest.mark.parametrize("name", ["plain", "org/name", "a b"])
async def test_a_model_is_found_by_its_name(client: AsgiClient, plane: FakePlane, name: str) -> None:
    plane.served = [ServedModel(name, ModelKind.TENSOR, ready=False, created=1)]
    answer = await client.request("GET", f"/v1/models/{name}")
    assert answer.status == 200
    assert (answer.json()["id"], answer.json()["ready"]) == (name, False)
    assert answer.json()["state"] == "loading"


async def test_every_name_is_listed_once(client: AsgiClient, plane: FakePlane) -> None:
    """An alias with weights, which leads to two models, and a model with two versions."""
    plane.served = [
        ServedModel("fish", ModelKind.GENERATE, ready=False, created=1, aliases=("chat",), version="1", live=False),
        ServedModel("fish", ModelKind.GENERATE, ready=True, created=1, aliases=("chat",), version="2"),
    ]
    listed = (await client.request("GET", "/v1/models")).json()["data"]
    assert [(model["id"], model["ready"]) for model in listed] == [("fish@1", False), ("chat", True), ("fish", True)]
    for name, is_ready in (("fish", True), ("fish@1", False), ("fish@2", True), ("chat", True)):
        found = (await client.request("GET", f"/v1/models/{name}")).json()
        assert (found["id"], found["root"], found["ready"]) == (name, "fish", is_ready)


async def test_a_model_that_failed_says_why(client: AsgiClient, plane: FakePlane) -> None:
    plane.served = [ServedModel("fish", ModelKind.TENSOR, ready=False, created=1, failed=True, reason="no such file")]
    found = (await client.request("GET", "/v1/models/fish")).json()
    assert (found["state"], found["reason"]) == ("failed", "no such file")


@pytest.mark.parametrize("name", ["", "other", "smollm2/"])
async def test_an_unknown_model_is_404(client: AsgiClient, name: str) -> None:
    answer = await client.request("GET", f"/v1/models/{name}")
    assert answer.status == 404
    assert answer.json()["error"]["code"] == "model_not_found"
