from __future__ import annotations

import contextlib
import struct
import tracemalloc
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect

from shoal.errors import InvalidRequest, ProtocolError
from shoal.messages import (
    Ack,
    Answer,
    Chunk,
    Generate,
    Infer,
    Inferred,
    Load,
    Message,
    ModelInfo,
    ModelList,
    Request,
    Status,
)
from shoal.rpc import deserialize, serialize
from shoal.types import (
    DTYPES,
    ChatMessage,
    ChatPrompt,
    FinishReason,
    Grammar,
    ModelKind,
    ModelName,
    ModelState,
    RequestId,
    Sampling,
    TensorSpec,
    TextPrompt,
    TokenLogprob,
    TokenPrompt,
    Usage,
    WorkerId,
    WorkerState,
)

ID, MODEL = RequestId("r1"), ModelName("minilm")
INFO = ModelInfo(
    MODEL, ModelKind.TENSOR, ModelState.READY, inputs=(TensorSpec("text", "BYTES", (-1, 1)),), context_length=7
)
MESSAGES: list[Message] = [
    Generate(ID, MODEL, TextPrompt("once"), Sampling(max_tokens=3, logit_bias={5: -1.5}, stop=("\n",))),
    Generate(ID, MODEL, ChatPrompt((ChatMessage("user", "höher"),)), Sampling(), Grammar("json_object")),
    Generate(ID, MODEL, TokenPrompt((1, 2, 70000)), Sampling(seed=2**63)),
    Chunk("a", (1,), (TokenLogprob(1, b"\xff", -0.5, ((2, b"", -1.0),)),), FinishReason.STOP, Usage(1, 2, 3)),
    Chunk("", ()),
    ModelList((INFO, INFO)),
    Status(WorkerId("w1"), WorkerState.DRAINING, Load(1, 2, 0.5), ()),
]


def sample(kind: inspect.Type) -> Any:
    """A value of a type: the first choice of everything that has choices, one of everything that may be many."""
    match kind:
        case inspect.StructType():
            return kind.cls(**{field.name: sample(field.type) for field in kind.fields})
        case inspect.UnionType():
            return sample(next(choice for choice in kind.types if not isinstance(choice, inspect.NoneType)))
        case inspect.VarTupleType():
            return (sample(kind.item_type),)
        case inspect.TupleType():
            return tuple(sample(item) for item in kind.item_types)
        case inspect.DictType():
            return {sample(kind.key_type): sample(kind.value_type)}
        case inspect.EnumType():
            return next(iter(kind.cls))
        case inspect.LiteralType():
            return kind.values[0]
        case inspect.CustomType() if issubclass(kind.cls, np.ndarray):
            return np.arange(3)
    plain = {inspect.StrType: "ä", inspect.IntType: 1, inspect.FloatType: 0.5, inspect.BytesType: b"\xff"}
    return plain.get(type(kind), True)


CLASSES = [*get_args(Request), *get_args(Answer)]


def roundtrip(message: Message) -> Any:
    return deserialize(b"".join(serialize(message)), Request | Answer)


def with_head(head: object, buffers: bytes = b"") -> bytes:
    """A message made by hand."""
    encoded = msgspec.msgpack.encode(head)
    padding = bytes(-(4 + len(encoded)) % 8)
    return struct.pack("!I", len(encoded)) + encoded + padding + buffers


def infer(tensor: object, buffers: bytes = b"") -> bytes:
    return with_head(["Infer", "r", "m", {"x": tensor}], buffers)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_message_comes_back_equal(message: Message) -> None:
    assert roundtrip(message) == message


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_of_message_comes_back_equal(kind: type[Message]) -> None:
    message = sample(inspect.type_info(kind))
    back = roundtrip(message)
    assert type(back) is kind
    np.testing.assert_equal(msgspec.structs.asdict(back), msgspec.structs.asdict(message))


@pytest.mark.parametrize("name", [name for name in DTYPES if name != "BYTES"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (1, 0, 5), (7, 1, 3)])
def test_every_numeric_tensor_comes_back_equal(name: str, shape: tuple[int, ...]) -> None:
    array = (np.arange(np.prod(shape, dtype=int)) % 2).astype(DTYPES[name]).reshape(shape)
    for message in (Infer(ID, MODEL, {"a": array, "b": array}), Inferred({"a": array, "b": array})):
        back = roundtrip(message)
        tensors = back.inputs if isinstance(back, Infer) else back.outputs
        for tensor in (tensors["a"], tensors["b"]):
            assert tensor.dtype == array.dtype
            np.testing.assert_array_equal(tensor, array, strict=True)
            assert tensor.flags.aligned


def test_bytes_tensors_come_back_as_bytes() -> None:
    array = np.array([["größe", b"\x00\xff"], [b"", "x"]], dtype=object)
    back = roundtrip(Infer(ID, MODEL, {"text": array})).inputs["text"]
    assert back.tolist() == [["größe".encode(), b"\x00\xff"], [b"", b"x"]]
    assert not back.flags.writeable


def test_strided_and_transposed_tensors_keep_their_values() -> None:
    array = np.arange(24, dtype=np.int64).reshape(4, 6)
    for view in (array.T, array[::2, ::-1]):
        np.testing.assert_array_equal(roundtrip(Infer(ID, MODEL, {"x": view})).inputs["x"], view)


def test_tensors_are_not_copied_on_the_way_out() -> None:
    array = np.ones((256, 1024), dtype=np.float32)
    pieces = serialize(Infer(ID, MODEL, {"x": array}))
    buffer = next(piece for piece in pieces if len(piece) == array.nbytes)
    assert np.shares_memory(np.frombuffer(buffer, np.float32), array)


def test_tensors_are_read_only_views_on_what_was_received() -> None:
    received = bytearray(b"".join(serialize(Infer(ID, MODEL, {"x": np.ones(1024)}))))
    tensor = deserialize(received, Request).inputs["x"]
    assert np.shares_memory(np.frombuffer(received, np.uint8), tensor)
    with pytest.raises(ValueError, match="read-only"):
        tensor[0] = 2


@pytest.mark.parametrize(
    "array",
    [np.zeros(2, np.complex64), np.zeros(2, ">f4"), np.array(["a"]), np.array([1], object), np.zeros(1, "M8[s]")],
    ids=str,
)
def test_what_the_wire_cannot_carry_is_refused_before_it_is_sent(array: np.ndarray[Any, Any]) -> None:
    with pytest.raises(InvalidRequest):
        serialize(Infer(ID, MODEL, {"x": array}))


def test_text_that_is_not_unicode_and_endless_numbers_are_refused_before_they_are_sent() -> None:
    with pytest.raises(InvalidRequest, match="surrogates"):
        serialize(Infer(RequestId("\ud800"), MODEL, {}))
    with pytest.raises(InvalidRequest):
        serialize(Infer(ID, MODEL, {"x": np.array(["\ud800"], object)}))
    with pytest.raises(InvalidRequest):
        serialize(Generate(ID, MODEL, TokenPrompt((2**70,)), Sampling()))


def test_a_failed_message_leaves_nothing_for_the_next() -> None:
    with pytest.raises(InvalidRequest):
        serialize(Infer(ID, MODEL, {"a": np.zeros(9), "b": np.zeros(1, np.complex64)}))
    assert len(serialize(Ack())) == 1


@pytest.mark.parametrize(
    ("tensor", "buffers"),
    [
        (["FP128", [1], 0], bytes(16)),
        (["FP32", [1], 0], b""),
        (["FP32", [2], 0], bytes(4)),
        (["FP32", [-1], 0], bytes(4)),
        (["FP32", [1], -8], bytes(8)),
        (["FP32", [1], 2**63], bytes(8)),
        (["FP32", [1], 4], bytes(16)),
        (["FP32", [2**40, 2**40], 0], bytes(8)),
        (["FP32", [2**64 - 1, 2], 0], bytes(8)),
        (["FP32", [0, 2**62], 0], b""),
        (["FP32", [0, 2**62, 2**62], 0], b""),
        (["FP32", [1] * 33, 0], bytes(4)),
        (["FP32", [1.0], 0], bytes(4)),
        (["FP32", [1], [b"a"]], b""),
        (["BYTES", [1], 0], bytes(8)),
        (["BYTES", [2], [b"a"]], b""),
        (["BYTES", [1], ["text"]], b""),
        (["BYTES", [-1], [b"a"]], b""),
        (["BOOL", [2], 0], b"\x01\x02"),
        (["FP32", [1]], bytes(4)),
        ([], b""),
        ({}, b""),
        ("x", b""),
        (None, b""),
    ],
    ids=str,
)
def test_a_hostile_tensor_is_an_invalid_request(tensor: object, buffers: bytes) -> None:
    with pytest.raises(InvalidRequest):
        deserialize(infer(tensor, buffers), Request)


def test_two_tensors_cannot_share_their_bytes() -> None:
    tensors = {"a": ["FP32", [2], 0], "b": ["FP32", [2], 0]}
    with pytest.raises(InvalidRequest, match="8 of them taken"):
        deserialize(with_head(["Infer", "r", "m", tensors], bytes(16)), Request)


def test_fields_and_tensors_of_a_newer_neighbour_are_passed_over() -> None:
    fields = ["r", "m", {"x": ["INT8", [1], 8]}, None, "", 0, "", "", None]
    assert len(fields) == len(Infer.__struct_fields__)
    newer = with_head(["Infer", *fields, {"new": ["INT8", [1], 16]}], bytes(range(24)))
    assert deserialize(newer, Request).inputs["x"].tolist() == [8]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x00\x00",
        struct.pack("!I", 5) + b"\x91",
        struct.pack("!I", 2**32 - 1) + b"\x91\xa3Ack",
        struct.pack("!I", 1) + b"\xc1",
        struct.pack("!I", 7) + b"\x91\xa3Ack\x00\x00",
        struct.pack("!I", 5) + b"\xdd\xff\xff\xff\xff",
        struct.pack("!I", 4) + b"\x91\xa2\xff\xff",
    ],
    ids=bytes.hex,
)
def test_bytes_that_are_no_message_are_a_protocol_error(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        deserialize(payload, Answer)


def test_a_message_that_breaks_its_rules_is_an_invalid_request_that_says_where() -> None:
    request = Generate(ID, MODEL, TextPrompt("x"), Sampling(max_tokens=0))
    with pytest.raises(InvalidRequest, match=r"max_tokens: .*>= 1"):
        roundtrip(request)
    with pytest.raises(InvalidRequest):
        deserialize(with_head(["Nonsense", 1]), Request)


@pytest.mark.parametrize("where", ["in a tensor", "in an unknown field"])
def test_deep_nesting_is_refused(where: str) -> None:
    deep = b"\x91" * 1_000_000 + b"\x01"
    head = b"\x94\xa5Infer\xa1r\xa1m\x81\xa1x" if where == "in a tensor" else b"\x92\xaaListModels"
    with pytest.raises(ProtocolError, match="nested"):
        deserialize(struct.pack("!I", len(head + deep)) + head + deep, Request)


@pytest.mark.parametrize("head", [b"\x81\xa1x\xdd", b"\xdf", b"\x81\xa1x\xc6", b"\x81\xa1x\x93\xdb"], ids=bytes.hex)
def test_an_announced_size_allocates_nothing(head: bytes) -> None:
    head = b"\x94\xa5Infer\xa1r\xa1m" + head + b"\xff\xff\xff\xff"
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            deserialize(struct.pack("!I", len(head)) + head, Request)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=200))
def test_random_bytes_never_do_worse_than_an_error(payload: bytes) -> None:
    with contextlib.suppress(ProtocolError, InvalidRequest):
        deserialize(payload, Request | Answer)


TENSOR_MESSAGE = b"".join(
    serialize(Infer(ID, MODEL, {"a": np.arange(5.0), "b": np.ones((2, 2), bool), "c": np.array([[b"x"]], object)}))
)


@given(st.data())
@settings(max_examples=300)
def test_a_mutated_message_never_does_worse_than_an_error(data: st.DataObject) -> None:
    payload = bytearray(TENSOR_MESSAGE)
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(payload)))
    with contextlib.suppress(ProtocolError, InvalidRequest):
        deserialize(payload[:end] if data.draw(st.booleans()) else payload, Request)
