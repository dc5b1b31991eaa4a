from __future__ import annotations

import base64
import dataclasses
import threading
from typing import Any

import msgspec
import numpy as np
import pytest

from shoal.api.limits import ApiLimits
from shoal.api.offload import encode_numbers
from shoal.api.openai import embeddings
from shoal.api.openai.embeddings import answer_of
from shoal.api.openai.schema import EmbeddingBody
from shoal.api.testing import MODELS, WIDTH, Answer, AsgiClient, FakePlane
from shoal.errors import InvalidRequest
from shoal.types import Array


async def ask(client: AsgiClient, **fields: Any) -> Answer:
    return await client.request("POST", "/v1/embeddings", json={"model": "minilm", "input": "hi"} | fields)


async def test_one_text_has_one_embedding(client: AsgiClient, plane: FakePlane) -> None:
    body = (await ask(client, input="two words")).json()
    assert (body["object"], body["model"]) == ("list", "minilm")
    (item,) = body["data"]
    assert (item["object"], item["index"], len(item["embedding"])) == ("embedding", 0, WIDTH)
    assert body["usage"] == {"prompt_tokens": 2, "total_tokens": 2}
    (request,) = plane.inferred
    assert request.inputs["text"].shape == (1, 1)
    assert request.inputs["text"][0, 0] == b"two words"


async def test_many_texts_keep_their_order(client: AsgiClient) -> None:
    both = (await ask(client, input=["one", "twø"])).json()["data"]
    assert [item["index"] for item in both] == [0, 1]
    assert both[1]["embedding"] == (await ask(client, input="twø")).json()["data"][0]["embedding"]


async def test_base64_is_little_endian_float32(client: AsgiClient) -> None:
    floats = (await ask(client, encoding_format="float")).json()["data"][0]["embedding"]
    packed = (await ask(client, encoding_format="base64")).json()["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(packed), dtype="<f4").tolist() == floats


async def test_the_width_of_the_model_may_be_asked_for(client: AsgiClient) -> None:
    assert (await ask(client, dimensions=WIDTH)).status == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": [1, 2]}, "input"),
        ({"input": [[1, 2], [3]]}, "input"),
        ({"input": ["a", 1]}, "input"),
        ({"input": None}, "input"),
        ({"input": ["a"] * (ApiLimits().inputs + 1)}, "input"),
        ({"dimensions": 256}, "dimensions"),
        ({"dimensions": 0}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"model": "smollm2"}, "model"),
    ],
)
async def test_what_cannot_be_embedded_is_refused_by_name(
    client: AsgiClient, fields: dict[str, Any], param: str
) -> None:
    answer = await ask(client, **fields)
    assert answer.status == 400
    assert answer.json()["error"]["param"] == param


async def test_a_model_that_is_not_ready_asks_to_come_back(client: AsgiClient, plane: FakePlane) -> None:
    plane.served = [dataclasses.replace(model, ready=False) for model in MODELS]
    answer = await ask(client)
    assert answer.status == 503
    assert answer.headers["retry-after"] == "2"
    assert answer.headers["x-should-retry"] == "true"


def test_a_model_without_embeddings_is_refused() -> None:
    body = EmbeddingBody(model="echo", input="hi")
    for outputs in ({}, {"embedding": np.zeros(3)}, {"embedding": np.zeros((2, 3))}):
        with pytest.raises(InvalidRequest, match="echo is not a model for embeddings"):
            answer_of(body, outputs, count=1)


def test_a_model_that_does_not_count_tokens_used_none() -> None:
    answer = answer_of(EmbeddingBody(model="m", input="hi"), {"embedding": np.zeros((1, 2))}, count=1)
    assert b'"prompt_tokens":0' in answer


@pytest.mark.parametrize(("count", "beside"), [(1, False), (200, True)])
async def test_many_embeddings_are_written_beside_the_event_loop(
    client: AsgiClient, monkeypatch: pytest.MonkeyPatch, count: int, beside: bool
) -> None:
    threads: set[int] = set()

    def encode(vector: Array) -> msgspec.Raw:
        threads.add(threading.get_ident())
        return encode_numbers(vector)

    monkeypatch.setattr(embeddings, "encode_numbers", encode)
    assert len((await ask(client, input=["hi"] * count)).json()["data"]) == count
    assert (threads != {threading.get_ident()}) == beside
