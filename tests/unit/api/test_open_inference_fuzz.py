"""No inference request, however odd, is answered with a 5xx or in another shape than the protocol's."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shoal.api.app import build_app
from shoal.api.open_inference.schema import InferBody, InputParameters, InputTensor, OutputParameters, RequestParameters
from shoal.api.testing import ECHO, MODELS, Answer, AsgiClient, FakePlane
from shoal.types import DTYPES

LENGTH = "inference-header-content-length"
FIELDS = sorted(
    name
    for kind in (InferBody, InputTensor, InputParameters, OutputParameters, RequestParameters)
    for name in kind.__struct_fields__
)

types = st.sampled_from([*DTYPES, "BF16", ""])
dimensions = st.integers(0, 3) | st.sampled_from([-1, 2**31, 2**62, 2**63, 2**70])
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**25), 10**25)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4)
)
data = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=8)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
shapes = st.lists(dimensions, max_size=4)


def sound() -> dict[str, Any]:
    return {
        "inputs": [{"name": "input", "shape": [2], "datatype": "INT32", "data": [1, 2]}],
        "outputs": [{"name": "output", "parameters": {"binary_data": True}}],
        "parameters": {},
    }


def ask(body: bytes, headers: dict[str, str] | None = None) -> Answer:
    client = AsgiClient(build_app(FakePlane(models=(*MODELS, ECHO)), metrics=bytes))
    return asyncio.run(client.request("POST", "/v2/models/echo/infer", body=body, headers=headers))


def is_sound(answer: Answer) -> None:
    assert answer.status < 500, answer.body
    if answer.status != 200:
        error = answer.json()
        assert error.keys() == {"error", "code", "param", "fault", "retryable", "request_id"}
        assert error["error"]


@given(data=data, shape=shapes, datatype=types)
@settings(max_examples=300)
def test_odd_tensors_in_json_are_refused_or_served(data: Any, shape: list[int], datatype: str) -> None:
    given = {"name": "input", "shape": shape, "datatype": datatype, "data": data}
    is_sound(ask(msgspec.json.encode({"inputs": [given]})))


@given(binary=st.binary(max_size=40), size=st.integers(0, 40), shape=shapes, datatype=types)
@settings(max_examples=300)
def test_odd_tensors_in_bytes_are_refused_or_served(binary: bytes, size: int, shape: list[int], datatype: str) -> None:
    given = {"name": "input", "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}}
    header = msgspec.json.encode({"inputs": [given], "parameters": {"binary_data_output": True}})
    is_sound(ask(header + binary, {LENGTH: str(len(header))}))


@given(
    items=st.lists(st.binary(max_size=6), max_size=4), harm=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)))
)
@settings(max_examples=200)
def test_damaged_byte_strings_are_refused_or_come_back_as_they_went(
    items: list[bytes], harm: list[tuple[int, int]]
) -> None:
    binary = bytearray(b"".join(struct.pack("<I", len(item)) + item for item in items))
    for at, byte in harm:
        if at < len(binary):
            binary[at] = byte
    parameters = {"binary_data_size": len(binary)}
    given = {"name": "input", "shape": [len(items)], "datatype": "BYTES", "parameters": parameters}
    header = msgspec.json.encode({"inputs": [given], "parameters": {"binary_data_output": True}})
    answer = ask(header + binary, {LENGTH: str(len(header))})
    is_sound(answer)
    if answer.status == 200:
        assert answer.body[int(answer.headers[LENGTH]) :] == binary


@given(
    part=st.sampled_from(["", "inputs", "outputs", "parameters"]),
    fields=st.dictionaries(st.sampled_from(FIELDS), values),
)
@example(part="inputs", fields={"name": "another"})
@settings(max_examples=200)
def test_odd_fields_are_refused_or_served(part: str, fields: dict[str, Any]) -> None:
    body = sound()
    place = body[part] if part else body
    (place[0] if isinstance(place, list) else place).update(fields)
    is_sound(ask(msgspec.json.encode(body)))


@given(length=st.text(st.sampled_from("0123456789-x "), max_size=4), body=st.binary(max_size=64) | st.just(b""))
@settings(max_examples=100)
def test_odd_bodies_and_lengths_are_refused(length: str, body: bytes) -> None:
    is_sound(ask(body, {LENGTH: length}))
    is_sound(ask(msgspec.json.encode(sound()) + body, {LENGTH: length}))


@given(encoding=st.sampled_from(["gzip", "deflate", "br", ""]), body=st.binary(max_size=64))
@settings(max_examples=50)
def test_odd_compressed_bodies_are_refused(encoding: str, body: bytes) -> None:
    is_sound(ask(body, {"content-encoding": encoding}))
