"""``tritonclient[http]``, unmodified."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

Array = npt.NDArray[Any]

ARRAYS: dict[str, Array] = {
    "BOOL": np.array([[True, False]]),
    "INT8": np.array([[-128, 127]], np.int8),
    "UINT64": np.array([[0, 2**64 - 1]], np.uint64),
    "FP16": np.array([[0.5, -65504]], np.float16),
    "FP32": np.array([[0.1, -1e30]], np.float32),
    "FP64": np.array([[0.1, 1e300]], np.float64),
    "BYTES": np.array([[b"fish", "ø".encode()]], np.object_),
}


@pytest.fixture
def client(address: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address, concurrency=4) as client:
        yield client


def given(array: Array, datatype: str = "FP32", *, name: str = "input", binary: bool = True) -> triton.InferInput:
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def output(binary: bool = True, **fields: Any) -> triton.InferRequestedOutput:
    return triton.InferRequestedOutput("output", binary_data=binary, **fields)


def texts(*items: str) -> Array:
    return np.array([[item.encode()] for item in items], np.object_)


def ask_in_vain(client: triton.InferenceServerClient, model: str, *inputs: Any, **fields: Any) -> tuple[str, str]:
    """Status and text of the error."""
    with pytest.raises(InferenceServerException) as error:
        client.infer(model, inputs, **fields)
    return error.value.status(), error.value.message()


# -- what there is


def test_the_server_and_its_models_are_alive_ready_and_described(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["name"] == "shoal"
    assert client.is_model_ready("minilm")
    assert client.get_model_metadata("echo")["versions"] == ["1"]
    assert client.get_model_config("echo")["max_batch_size"] == 0
    index = client.get_model_repository_index()
    assert {(entry["name"], entry["version"], entry["state"]) for entry in index} == {
        ("echo", "1", "READY"),
        ("minilm", "1", "READY"),
        ("same", "1", "READY"),
        ("same", "2", "READY"),
    }


def test_a_model_tells_what_it_takes_and_gives(client: triton.InferenceServerClient) -> None:
    metadata = client.get_model_metadata("minilm")
    assert metadata["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1, 1]}]
    assert metadata["outputs"][0] == {"name": "embedding", "datatype": "FP32", "shape": [-1, 384]}


def test_versions_stand_side_by_side(client: triton.InferenceServerClient) -> None:
    assert client.get_model_metadata("same", "2")["versions"] == ["1", "2"]
    assert client.is_model_ready("same", "2")
    assert not client.is_model_ready("same", "3")
    for version in ("1", "2"):
        answer = client.infer("same", [given(ARRAYS["FP32"])], model_version=version)
        assert answer.get_response()["model_version"] == version


# -- inference


@pytest.mark.parametrize("datatype", ARRAYS)
@pytest.mark.parametrize("sent", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("back", [True, False], ids=["binary", "json"])
def test_tensors_come_back_as_they_went(
    client: triton.InferenceServerClient, datatype: str, sent: bool, back: bool
) -> None:
    array = ARRAYS[datatype]
    answer = client.infer("echo", [given(array, datatype, binary=sent)], outputs=[output(back)], request_id="seven")
    found = answer.as_numpy("output")
    expected = array if back or datatype != "BYTES" else np.array([["fish", "ø"]])
    assert found.dtype == (array.dtype if back else found.dtype)
    assert np.array_equal(found, expected)
    assert answer.get_response()["id"] == "seven"


def test_texts_become_embeddings(client: triton.InferenceServerClient) -> None:
    vectors = client.infer("minilm", [given(texts("a fish", "a small fish", "the stock market"), "BYTES", name="text")])
    found = vectors.as_numpy("embedding")
    assert (found.shape, found.dtype) == ((3, 384), np.float32)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-2)
    assert found[0] @ found[1] > found[0] @ found[2]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_bodies_may_be_compressed(client: triton.InferenceServerClient, algorithm: str) -> None:
    array = np.arange(10_000, dtype=np.float32)
    answer = client.infer(
        "echo",
        [given(array)],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    assert np.array_equal(answer.as_numpy("output"), array)


def test_forty_megabytes_go_there_and_back(client: triton.InferenceServerClient) -> None:
    array = np.random.default_rng(7).standard_normal(10_000_000, dtype=np.float32)
    assert np.array_equal(client.infer("echo", [given(array)]).as_numpy("output"), array)


def test_requests_run_side_by_side(client: triton.InferenceServerClient) -> None:
    arrays = [np.full((2, 3), number, np.float32) for number in range(16)]
    asked = [client.async_infer("echo", [given(array)]) for array in arrays]
    for array, request in zip(arrays, asked, strict=True):
        assert np.array_equal(request.get_result().as_numpy("output"), array)


async def test_the_asynchronous_client_is_served_too(address: str) -> None:
    async with triton_aio.InferenceServerClient(address) as client:
        assert await client.is_server_ready()
        arrays = [np.full((2, 3), number, np.float32) for number in range(8)]
        answers = await asyncio.gather(*(client.infer("echo", [given(array)]) for array in arrays))
        for array, answer in zip(arrays, answers, strict=True):
            assert np.array_equal(answer.as_numpy("output"), array)
        with pytest.raises(InferenceServerException, match="there is no model 'nobody'"):
            await client.infer("nobody", [given(ARRAYS["FP32"])])


def test_priority_and_timeout_are_understood(client: triton.InferenceServerClient) -> None:
    answer = client.infer("echo", [given(ARRAYS["FP32"])], priority=1, timeout=5_000_000)
    assert np.array_equal(answer.as_numpy("output"), ARRAYS["FP32"])
    status, _ = ask_in_vain(client, "minilm", given(texts("a fish"), "BYTES", name="text"), timeout=1)
    assert status == "504"


# -- what is wrong


@pytest.mark.parametrize(
    ("array", "datatype", "name"),
    [
        (texts("a fish").reshape(1, 1, 1), "BYTES", "text"),  # its shape
        (np.array([[1.5]], np.float32), "FP32", "text"),  # its type
        (texts("a fish"), "BYTES", "words"),  # its name
    ],
)
def test_an_input_that_does_not_fit_is_named(
    client: triton.InferenceServerClient, array: Array, datatype: str, name: str
) -> None:
    status, message = ask_in_vain(client, "minilm", given(array, datatype, name=name))
    assert status == "400"
    assert "'text'" in message


def test_an_unknown_model_and_an_unknown_version_are_not_found(client: triton.InferenceServerClient) -> None:
    status, message = ask_in_vain(client, "nobody", given(ARRAYS["FP32"]))
    assert (status, "there is no model 'nobody'" in message) == ("404", True)
    status, message = ask_in_vain(client, "same", given(ARRAYS["FP32"]), model_version="3")
    assert (status, "same@3" in message) == ("404", True)
    with pytest.raises(InferenceServerException, match="there is no model 'nobody'"):
        client.get_model_metadata("nobody")


def test_what_is_not_served_is_refused_with_the_reason(client: triton.InferenceServerClient) -> None:
    one = given(ARRAYS["FP32"])
    assert "no output 'vector'" in ask_in_vain(client, "echo", one, outputs=[triton.InferRequestedOutput("vector")])[1]
    assert "classification is not supported" in ask_in_vain(client, "echo", one, outputs=[output(class_count=3)])[1]
    assert "sequence_id is not supported" in ask_in_vain(client, "echo", one, sequence_id=7, sequence_start=True)[1]
    shared = triton.InferInput("input", [1], "FP32")
    shared.set_shared_memory("region", 4)
    assert "shared memory" in ask_in_vain(client, "echo", shared)[1]
    for ask in (
        client.get_system_shared_memory_status,
        client.get_cuda_shared_memory_status,
        lambda: client.register_system_shared_memory("region", "/key", 64),
    ):
        with pytest.raises(InferenceServerException, match="shared memory is not supported"):
            ask()
    with pytest.raises(InferenceServerException, match="/metrics"):
        client.get_inference_statistics("echo")
