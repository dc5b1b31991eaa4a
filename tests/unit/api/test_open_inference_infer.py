"""Inference requests: JSON, binary, and what is wrong with them."""

from __future__ import annotations

import asyncio
import gzip
import re
import struct
import threading
import zlib
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from shoal.api.app import build_app
from shoal.api.limits import ApiLimits
from shoal.api.offload import encode_numbers
from shoal.api.open_inference import outputs
from shoal.api.open_inference.inputs import read_alone
from shoal.api.testing import ECHO, MODELS, Answer, AsgiClient, FakePlane
from shoal.errors import InvalidRequest
from shoal.types import DTYPES, Array, TensorSpec

LENGTH = "inference-header-content-length"
PATH = "/v2/models/echo/infer"


@pytest.fixture
def plane() -> FakePlane:
    return FakePlane(models=(*MODELS, ECHO))


@pytest.fixture
def client(plane: FakePlane) -> AsgiClient:
    return AsgiClient(build_app(plane, metrics=bytes))


def tensor(data: Any, datatype: str = "INT32", shape: Sequence[int] | None = None, **fields: Any) -> dict[str, Any]:
    return {
        "name": "input",
        "datatype": datatype,
        "shape": [len(data)] if shape is None else shape,
        "data": data,
    } | fields


async def ask(client: AsgiClient, *inputs: dict[str, Any], path: str = PATH, **fields: Any) -> Answer:
    return await client.request("POST", path, json={"inputs": inputs} | fields)


async def send(
    client: AsgiClient,
    binary: bytes,
    datatype: str = "INT32",
    shape: Sequence[int] = (2,),
    *,
    size: int | None = None,
    **fields: Any,
) -> Answer:
    """One binary input, and the output as the fields say."""
    parameters = {"binary_data_size": len(binary) if size is None else size}
    given = {"name": "input", "datatype": datatype, "shape": shape, "parameters": parameters}
    header = msgspec.json.encode({"inputs": [given]} | fields)
    return await client.request("POST", PATH, body=header + binary, headers={LENGTH: str(len(header))})


def packed(*items: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(item)) + item for item in items)


def binary_part(answer: Answer) -> bytes:
    return answer.body[int(answer.headers[LENGTH]) :]


def received(plane: FakePlane) -> Array:
    return plane.inferred[-1].inputs["input"]


async def until_asked(plane: FakePlane) -> None:
    async with asyncio.timeout(10):
        while not plane.inferred:
            await asyncio.sleep(0)


ALL: dict[str, Any] = {"parameters": {"binary_data_output": True}}
VALUES: dict[str, list[Any]] = {
    name: [0, 1] if dtype.kind in "ui" else [0.5, -2.0] for name, dtype in DTYPES.items() if dtype.kind in "uif"
} | {"BOOL": [True, False], "BYTES": ["fish", "ø"], "UINT64": [0, 2**64 - 1], "INT8": [-128, 127]}


# -- JSON


@pytest.mark.parametrize("datatype", DTYPES)
async def test_every_type_goes_through_as_json(client: AsgiClient, plane: FakePlane, datatype: str) -> None:
    answer = await ask(client, tensor(VALUES[datatype], datatype), id="my id")
    assert answer.json() == {
        "model_name": "echo",
        "model_version": "1",
        "id": "my id",
        "outputs": [{"name": "output", "datatype": datatype, "shape": [2], "data": VALUES[datatype]}],
    }
    assert received(plane).dtype == DTYPES[datatype]


async def test_data_may_be_nested_like_the_shape_or_flat(client: AsgiClient, plane: FakePlane) -> None:
    for data in ([[1, 2, 3], [4, 5, 6]], [1, 2, 3, 4, 5, 6]):
        answer = await ask(client, tensor(data, shape=[2, 3]))
        assert answer.json()["outputs"][0]["data"] == [1, 2, 3, 4, 5, 6]
        assert received(plane).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert (await ask(client, tensor([["a"], ["b"]], "BYTES", [2, 1]))).status == 200
    assert received(plane).tolist() == [[b"a"], [b"b"]]


@pytest.mark.parametrize(("data", "shape"), [([], [0]), ([], [0, 3]), ([[], []], [2, 0]), ([], [2, 0]), ([7], [])])
async def test_tensors_without_elements_or_dimensions_are_tensors(
    client: AsgiClient, plane: FakePlane, data: list[Any], shape: list[int]
) -> None:
    assert (await ask(client, tensor(data, shape=shape))).status == 200
    assert list(received(plane).shape) == shape


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (tensor([1, 2], shape=[3]), "not of the shape [3]"),
        (tensor([[1], [2]], shape=[1, 2]), "not of the shape [1, 2]"),
        (tensor([[1, 2], [3]], shape=[2, 2]), "no INT32 of shape [2, 2]"),
        (tensor([["a"], ["b", "c"]], "BYTES", [2, 1]), "not of the shape [2, 1]"),
        (tensor([[[1]]], shape=[1, 1]), "data of 3 dimensions for a shape of 2"),
        (tensor(1, shape=[]), "data of 0 dimensions"),
        (tensor("ab", "BYTES", [1]), "data of 0 dimensions"),
        (tensor([1.5]), "Expected `int`, got `float`"),
        (tensor([True]), "Expected `int`, got `bool`"),
        (tensor([2**31]), "<= 2147483647"),
        (tensor([-1], "UINT64"), ">= 0"),
        (tensor([2**64], "UINT64"), "no UINT64"),
        (tensor([1e300], "FP32"), "Expected `float` <="),
        (tensor(["1"], "FP64"), "Expected `float`, got `str`"),
        (tensor([None], "FP64"), "Expected `float`, got `null`"),
        (tensor([1], "BOOL"), "Expected `bool`, got `int`"),
        (tensor([1], "BYTES"), "Expected `str`, got `int`"),
        (tensor([1], "BF16"), "is BF16, which is not supported: send FP32 or FP16"),
        (tensor([1], "fp32"), "has the datatype 'fp32'; there are BOOL"),
        (tensor([], shape=[0, 2**62, 2**62]), "cannot have the shape"),
        ({"name": "input", "shape": [1], "datatype": "INT8"}, "needs either data or the parameter binary_data_size"),
        (tensor([1], parameters={"binary_data_size": 4}), "needs either data"),
        (tensor([1], parameters={"shared_memory_region": "a"}), "shared memory, which is not supported"),
    ],
)
async def test_an_input_that_is_wrong_is_named(client: AsgiClient, given: dict[str, Any], reason: str) -> None:
    answer = await ask(client, given)
    assert answer.status == 400, answer.body
    assert answer.json()["error"].startswith("input 'input' ")
    assert reason in answer.json()["error"]
    assert answer.json()["param"] == "input"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": [tensor([1], shape=[-1])]}, "inputs[0].shape[0]"),
        ({"inputs": [tensor([1]) | {"shape": ["a"]}]}, "inputs[0].shape[0]"),
        ({"inputs": [tensor([1], shape=[1] * 33)]}, "inputs[0].shape"),
        ({"inputs": [tensor([1], name="")]}, "inputs[0].name"),
        ({"inputs": [tensor([1]), tensor([1])]}, "input"),
        ({"inputs": [tensor([1])] * 257}, "inputs"),
        ({"inputs": [tensor([1])], "id": 7}, "id"),
        ({"inputs": [tensor([1])], "parameters": {"priority": 202}}, "parameters.priority"),
        ({"inputs": [tensor([1])], "parameters": {"sequence_id": 7}}, "parameters.sequence_id"),
        ({"inputs": [tensor([1])], "parameters": {"timeout": -1}}, "parameters.timeout"),
        ({"inputs": [tensor([1])], "outputs": [{"name": "nothing"}]}, "nothing"),
        ({"inputs": [tensor([1])], "outputs": [{"name": "output"}] * 2}, "output"),
        ({"inputs": [tensor([1])], "outputs": [{"name": "output", "parameters": {"classification": 3}}]}, "output"),
        (
            {"inputs": [tensor([1])], "outputs": [{"name": "output", "parameters": {"shared_memory_region": "a"}}]},
            "output",
        ),
    ],
)
async def test_a_body_that_is_wrong_names_the_field(client: AsgiClient, body: Any, param: str) -> None:
    answer = await client.request("POST", PATH, json=body)
    assert (answer.status, answer.json()["param"]) == (400, param), answer.body


@pytest.mark.parametrize("path", ["/v2/models/nobody/infer", "/v2/models/echo/versions/2/infer"])
async def test_an_unknown_model_or_version_is_404_before_the_body_is_looked_at(client: AsgiClient, path: str) -> None:
    answer = await client.request("POST", path, body=b"no json")
    assert (answer.status, answer.json()["code"]) == (404, "model_not_found")


async def test_a_language_model_takes_no_tensors(client: AsgiClient) -> None:
    answer = await ask(client, tensor([1]), path="/v2/models/smollm2/infer")
    assert (answer.status, answer.json()["param"]) == (400, "model")


async def test_bytes_that_are_no_text_cannot_be_json(client: AsgiClient) -> None:
    answer = await send(client, packed(b"\xff"), "BYTES", [1])
    assert answer.status == 400
    assert "ask for it as binary data" in answer.json()["error"]


async def test_a_number_that_json_lacks_is_null(client: AsgiClient) -> None:
    answer = await send(client, np.array([np.nan, np.inf], np.float32).tobytes(), "FP32", [2])
    assert answer.json()["outputs"][0]["data"] == [None, None]


# -- binary


@pytest.mark.parametrize("datatype", [name for name in DTYPES if name != "BYTES"])
async def test_every_type_goes_through_as_bytes(client: AsgiClient, plane: FakePlane, datatype: str) -> None:
    array = np.array(VALUES[datatype], DTYPES[datatype])
    answer = await send(client, array.tobytes(), datatype, **ALL)
    assert answer.headers["content-type"] == "application/octet-stream"
    (output,) = msgspec.json.decode(answer.body[: int(answer.headers[LENGTH])])["outputs"]
    assert output == {
        "name": "output",
        "datatype": datatype,
        "shape": [2],
        "parameters": {"binary_data_size": array.nbytes},
    }
    assert binary_part(answer) == array.tobytes()


async def test_byte_strings_have_their_length_before_them(client: AsgiClient, plane: FakePlane) -> None:
    sent = packed(b"fish", b"", b"\x00\xff")
    answer = await send(client, sent, "BYTES", [3, 1], **ALL)
    assert received(plane).tolist() == [[b"fish"], [b""], [b"\x00\xff"]]
    assert binary_part(answer) == sent


@pytest.mark.parametrize("spaces", range(8))
async def test_a_tensor_is_a_view_on_the_body_wherever_its_header_ends(
    client: AsgiClient, plane: FakePlane, spaces: int
) -> None:
    await send(client, np.arange(2.0).tobytes(), "FP64", id=" " * spaces)
    assert received(plane).tolist() == [0, 1]
    assert received(plane).flags.aligned
    assert not received(plane).flags.owndata


async def test_a_tensor_behind_one_of_an_odd_size_is_aligned_too(client: AsgiClient, plane: FakePlane) -> None:
    given = [
        {"name": "text", "datatype": "INT8", "shape": [3], "parameters": {"binary_data_size": 3}},
        {"name": "input", "datatype": "FP64", "shape": [1], "parameters": {"binary_data_size": 8}},
    ]
    header = msgspec.json.encode({"inputs": given})
    body = header + b"abc" + np.array([1.5]).tobytes()
    assert (await client.request("POST", PATH, body=body, headers={LENGTH: str(len(header))})).status == 200
    assert received(plane).flags.aligned
    assert received(plane).tolist() == [1.5]


async def test_outputs_are_binary_one_by_one(client: AsgiClient) -> None:
    path = "/v2/models/minilm/infer"
    text = tensor(["a fish"], "BYTES", [1, 1]) | {"name": "text"}
    asked = [{"name": "tokens"}, {"name": "embedding", "parameters": {"binary_data": True}}]
    answer = await ask(client, text, path=path, outputs=asked)
    header = msgspec.json.decode(answer.body[: int(answer.headers[LENGTH])])
    assert [output["name"] for output in header["outputs"]] == ["tokens", "embedding"]
    assert header["outputs"][0]["data"] == [2]
    assert len(binary_part(answer)) == header["outputs"][1]["parameters"]["binary_data_size"]
    only = [{"name": "tokens", "parameters": {"binary_data": False}}]
    answer = await ask(client, text, path=path, outputs=only, **ALL)
    assert LENGTH not in answer.headers
    assert [output["name"] for output in answer.json()["outputs"]] == ["tokens"]


async def test_an_unknown_output_is_refused_before_anything_runs(client: AsgiClient, plane: FakePlane) -> None:
    text = tensor(["a fish"], "BYTES", [1, 1]) | {"name": "text"}
    answer = await ask(client, text, path="/v2/models/minilm/infer", outputs=[{"name": "vector"}])
    assert answer.status == 400
    assert answer.json()["error"] == "there is no output 'vector'; the model gives 'embedding', 'tokens'"
    assert not plane.inferred


@pytest.mark.parametrize(
    ("binary", "datatype", "shape", "reason"),
    [
        (bytes(7), "INT32", [2], "has 8 bytes as INT32 of shape [2], not 7"),
        (bytes(8), "INT32", [1], "has 4 bytes as INT32 of shape [1], not 8"),
        (b"\x02", "BOOL", [1], "neither 0 nor 1"),
        (bytes(2), "BF16", [1], "is BF16"),
        (bytes(8), "FP32", [2**62, 4], "bytes as FP32"),
        (b"", "FP32", [0, 2**62, 2**62], "cannot have the shape"),
        (b"", "BYTES", [1], "ends within element 0 of 1"),
        (packed(b"ab")[:-1], "BYTES", [1], "ends within element 0 of 1"),
        (packed(b"ab")[:3], "BYTES", [1], "ends within element 0 of 1"),
        (b"\xff\xff\xff\xff", "BYTES", [1], "ends within element 0 of 1"),
        (packed(b"a", b"b"), "BYTES", [1], "has 5 bytes behind its 1 elements"),
        (b"", "BYTES", [2**18 + 1], "has 262145 elements; of BYTES there may be 262144"),
    ],
)
async def test_bytes_that_are_no_such_tensor_are_refused(
    client: AsgiClient, binary: bytes, datatype: str, shape: list[int], reason: str
) -> None:
    answer = await send(client, binary, datatype, shape)
    assert answer.status == 400
    assert answer.json()["param"] == "input"
    assert reason in answer.json()["error"]


async def test_sizes_that_do_not_add_up_are_refused(client: AsgiClient) -> None:
    short = await send(client, bytes(8), size=12, shape=[3])
    assert "has 12 bytes of binary data, but 8 are left" in short.json()["error"]
    long = await send(client, bytes(8), size=4, shape=[1])
    assert "the body has 4 bytes behind the last input" in long.json()["error"]
    for given in ("100000", "-1", "ten", ""):
        answer = await client.request("POST", PATH, body=b"{}", headers={LENGTH: given})
        assert (answer.status, answer.json()["param"]) == (400, LENGTH)
    forgotten = await ask(
        client, {"name": "input", "datatype": "INT8", "shape": [1], "parameters": {"binary_data_size": 1}}
    )
    assert "has 1 bytes of binary data, but 0 are left" in forgotten.json()["error"]


# -- no JSON at all


async def test_a_body_without_json_is_the_only_input(client: AsgiClient, plane: FakePlane) -> None:
    path = "/v2/models/minilm/infer"
    answer = await client.request("POST", path, body=b"two words", headers={LENGTH: "0"})
    assert answer.json()["outputs"][1]["data"] == [2]
    assert plane.inferred[-1].inputs["text"].tolist() == [[b"two words"]]


NUMBERS = TensorSpec("x", "FP32", (-1, 2))


@pytest.mark.parametrize(
    ("spec", "data", "shape"),
    [
        (NUMBERS, bytes(24), [3, 2]),
        (NUMBERS, b"", [0, 2]),
        (TensorSpec("x", "UINT8", (3,)), bytes(3), [3]),
        (TensorSpec("x", "INT16", (-1, 0)), b"", [0, 0]),
        (TensorSpec("x", "BYTES", (-1, 1)), b"picture", [1, 1]),
    ],
)
def test_the_free_dimension_is_what_the_bytes_fill(spec: TensorSpec, data: bytes, shape: list[int]) -> None:
    array = read_alone([spec], memoryview(data), ApiLimits())["x"]
    assert array.shape == tuple(shape)
    assert (b"".join(array.flat) if spec.dtype == "BYTES" else array.tobytes()) == data


@pytest.mark.parametrize(
    ("specs", "data", "reason"),
    [
        ([NUMBERS], bytes(23), "has 16 bytes as FP32 of shape [2, 2], not 23"),
        ([TensorSpec("x", "FP32", (-1, -1))], bytes(8), "has 4 bytes as FP32 of shape [1, 1], not 8"),
        ([TensorSpec("x", "BF16", (-1,))], bytes(8), "BF16"),
        ([TensorSpec("x", "BYTES", (2,))], bytes(8), "cannot have the shape [2]"),
        ([NUMBERS, NUMBERS], bytes(8), "this one has 2"),
        ([], bytes(8), "does not say"),
    ],
)
def test_bytes_that_fill_no_input_are_refused(specs: list[TensorSpec], data: bytes, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(reason)):
        read_alone(specs, memoryview(data), ApiLimits())


# -- limits


async def test_tensors_may_be_larger_than_other_bodies_but_not_their_json(plane: FakePlane) -> None:
    client = AsgiClient(build_app(plane, metrics=bytes, limits=ApiLimits(body_bytes=1000, tensor_bytes=5000)))
    assert (await send(client, bytes(4000), shape=[1000], **ALL)).status == 200
    assert (await send(client, bytes(5000), shape=[1250], **ALL)).status == 413
    answer = await ask(client, tensor([0] * 1000))
    assert answer.status == 413
    assert "as binary data" in answer.json()["error"]


async def test_bodies_together_have_a_bound_and_are_let_go_of(plane: FakePlane) -> None:
    client = AsgiClient(build_app(plane, metrics=bytes, limits=ApiLimits(all_bodies_bytes=6000)))
    plane.hold.clear()
    first = asyncio.create_task(send(client, bytes(4000), shape=[1000]))
    await until_asked(plane)
    second = await send(client, bytes(4000), shape=[1000])
    assert (second.status, second.headers["retry-after"]) == (429, "1")
    plane.hold.set()
    assert (await first).status == 200
    assert (await send(client, bytes(4000), shape=[1000])).status == 200


@pytest.mark.parametrize(("name", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_bodies_may_be_compressed_both_ways(
    client: AsgiClient, plane: FakePlane, name: str, compress: Any
) -> None:
    array = np.arange(1000, dtype=np.int32)
    given = tensor(None, shape=[1000]) | {"parameters": {"binary_data_size": array.nbytes}}
    del given["data"]
    header = msgspec.json.encode({"inputs": [given]} | ALL)
    headers = {LENGTH: str(len(header)), "content-encoding": name, "accept-encoding": name}
    answer = await client.request("POST", PATH, body=compress(header + array.tobytes()), headers=headers)
    assert answer.headers["content-encoding"] == name
    assert int(answer.headers["content-length"]) == len(answer.body)
    answer.body = zlib.decompress(answer.body, 47)
    assert binary_part(answer) == array.tobytes()
    assert received(plane).flags.aligned


async def test_a_short_answer_is_not_compressed(client: AsgiClient) -> None:
    answer = await client.request("POST", PATH, json={"inputs": [tensor([1])]}, headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in answer.headers


async def test_a_compressed_bomb_is_too_large_and_leaves_nothing_held(plane: FakePlane) -> None:
    limits = ApiLimits(tensor_bytes=2**20, all_bodies_bytes=2**20 + 2**16)
    client = AsgiClient(build_app(plane, metrics=bytes, limits=limits))
    for _ in range(3):
        bomb = gzip.compress(bytes(2**24))
        answer = await client.request("POST", PATH, body=bomb, headers={"content-encoding": "gzip"})
        assert answer.status == 413
        assert "inflated" in answer.json()["error"]


@pytest.mark.parametrize("encoding", ["br", "gzip"])
async def test_a_body_that_is_not_compressed_as_it_says_is_refused(client: AsgiClient, encoding: str) -> None:
    answer = await client.request("POST", PATH, body=b"{}", headers={"content-encoding": encoding})
    assert (answer.status, answer.json()["param"]) == (400, "content-encoding")


@pytest.mark.parametrize(("count", "beside"), [(10, False), (100_000, True)])
async def test_large_answers_in_json_are_written_beside_the_event_loop(
    client: AsgiClient, monkeypatch: pytest.MonkeyPatch, count: int, beside: bool
) -> None:
    threads: list[int] = []

    def encode(array: Array) -> msgspec.Raw:
        threads.append(threading.get_ident())
        return encode_numbers(array)

    monkeypatch.setattr(outputs, "encode_numbers", encode)
    values = np.arange(count, dtype=np.int32)
    answer = await send(client, values.tobytes(), shape=[count])
    assert answer.json()["outputs"][0]["data"] == values.tolist()
    assert (threads != [threading.get_ident()]) == beside


# -- what goes with a request


async def test_headers_and_parameters_go_with_the_request(client: AsgiClient, plane: FakePlane) -> None:
    headers = {"x-request-id": "seven", "x-priority": "3", "x-deadline-ms": "5000", "x-shard-key": "user 7"}
    await client.request("POST", PATH, json={"inputs": [tensor([1])]}, headers=headers)
    (request,) = plane.inferred
    assert (request.request_id, request.priority, request.key) == ("seven", 3, "user 7")
    assert (request.model, request.version) == ("echo", "1")
    assert plane.timeouts == [5]


@pytest.mark.parametrize(
    ("header", "parameter", "timeout"),
    [(None, 0, None), (None, 2_000_000, 2), ("1000", 2_000_000, 1), ("3000", 2_000_000, 2), (None, 2**63 - 1, 86_400)],
)
async def test_a_timeout_counts_in_microseconds_and_the_shorter_one_wins(
    client: AsgiClient, plane: FakePlane, header: str | None, parameter: int, timeout: float | None
) -> None:
    body = {"inputs": [tensor([1])], "parameters": {"timeout": parameter}}
    await client.request("POST", PATH, json=body, headers={"x-deadline-ms": header} if header else {})
    assert plane.timeouts == [timeout]


@pytest.mark.parametrize(("given", "priority"), [(0, 0), (1, 100), (2, 99), (201, -100)])
async def test_the_lowest_priority_parameter_is_the_most_urgent(
    client: AsgiClient, plane: FakePlane, given: int, priority: int
) -> None:
    await ask(client, tensor([1]), parameters={"priority": given})
    assert plane.inferred[-1].priority == priority


async def test_a_shard_key_has_a_bound(client: AsgiClient) -> None:
    answer = await client.request("POST", PATH, json={"inputs": [tensor([1])]}, headers={"x-shard-key": "k" * 257})
    assert (answer.status, answer.json()["param"]) == (400, "x-shard-key")


async def test_a_shard_key_is_the_one_that_a_native_client_would_send(client: AsgiClient, plane: FakePlane) -> None:
    await client.request("POST", PATH, json={"inputs": [tensor([1])]}, headers={"x-shard-key": "José"})
    assert plane.inferred[-1].key == "José"


async def test_a_shard_key_that_is_not_utf8_is_refused(client: AsgiClient, plane: FakePlane) -> None:
    call = client.call("POST", PATH, [msgspec.json.encode({"inputs": [tensor([1])]})])
    call.scope["headers"].append((b"x-shard-key", "José".encode("latin-1")))
    await client.run(call)
    assert (call.answer.status, call.answer.json()["param"]) == (400, "x-shard-key")
    assert plane.inferred == []


async def test_a_client_that_leaves_cuts_the_inference(client: AsgiClient, plane: FakePlane) -> None:
    plane.hold.clear()
    call = client.call("POST", PATH, [msgspec.json.encode({"inputs": [tensor([1])]})])
    running = asyncio.create_task(client.run(call))
    await until_asked(plane)
    call.gone.set()
    await running
    assert plane.cut == [plane.inferred[0].request_id]
