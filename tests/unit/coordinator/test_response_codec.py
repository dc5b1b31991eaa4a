from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from shoal.config import ModelConfig, ResponseCacheConfig
from shoal.coordinator.response_codec import (
    MAX_KEY,
    decode_answers,
    encode_answers,
    is_deterministic,
    model_prefix,
    request_key,
    size_of,
    spec_prefix,
)
from shoal.errors import ShoalError
from shoal.messages import Chunk, Generate, Infer, Inferred
from shoal.model_registry import ModelSpec
from shoal.types import (
    DTYPES,
    Array,
    ChatMessage,
    ChatPrompt,
    FinishReason,
    Grammar,
    ModelId,
    ModelKind,
    ModelName,
    RequestId,
    Sampling,
    TextPrompt,
    TokenLogprob,
    TokenPrompt,
    Usage,
    Version,
)

PROMPT = TextPrompt("How many fish?")
GENERATE = Generate(RequestId("1"), ModelName("m"), PROMPT, Sampling(seed=1))
ROW = np.arange(6, dtype=np.float32)
INFER = Infer(RequestId("1"), ModelName("m"), {"x": ROW})


def key(request: Generate | Infer, **changes: Any) -> bytes | None:
    return request_key(msgspec.structs.replace(request, **changes), b"prefix")


@pytest.mark.parametrize("request_", [GENERATE, INFER])
@pytest.mark.parametrize(
    "changes", [{"request_id": "2"}, {"trace": "00-abc"}, {"priority": 5}, {"model": "alias", "version": "1"}]
)
def test_what_does_not_change_the_answer_is_not_in_the_key(
    request_: Generate | Infer, changes: dict[str, object]
) -> None:
    assert key(request_, **changes) == key(request_) is not None


def test_one_of_many_generations_has_the_key_that_it_has_alone() -> None:
    assert key(GENERATE, group="the request it came with") == key(GENERATE) is not None


def test_whatever_changes_the_answer_changes_the_key() -> None:
    requests = [
        key(GENERATE),
        key(GENERATE, tenant="a"),
        key(GENERATE, tenant="b"),
        key(GENERATE, prompt=TextPrompt("How many fish?\n")),
        key(GENERATE, prompt=TokenPrompt((1, 2))),
        key(GENERATE, prompt=ChatPrompt((ChatMessage("user", "How many fish?"),))),
        key(GENERATE, prompt=ChatPrompt((ChatMessage("system", "How many fish?"),))),
        key(GENERATE, sampling=Sampling(seed=2)),
        key(GENERATE, sampling=Sampling(seed=1, temperature=0.5)),
        key(GENERATE, sampling=Sampling(seed=1, logit_bias={5: 1.0})),
        key(GENERATE, sampling=Sampling(seed=1, stop=("fish",))),
        key(GENERATE, grammar=Grammar("json_object")),
        key(GENERATE, output=(7,)),
        key(INFER),
        key(INFER, tenant="a"),
        key(INFER, inputs={"y": ROW}),
        key(INFER, inputs={"x": ROW, "y": ROW}),
        key(INFER, inputs={"x": ROW.reshape(2, 3)}),
        key(INFER, inputs={"x": ROW.reshape(3, 2)}),
        key(INFER, inputs={"x": ROW.view(np.int32)}),
        key(INFER, inputs={"x": ROW + 1}),
        key(INFER, inputs={"x": np.array([b"ab", b"c"], dtype=object)}),
        key(INFER, inputs={"x": np.array([b"a", b"bc"], dtype=object)}),
        key(INFER, key="shard-me"),
        request_key(INFER, b"other"),
    ]
    assert None not in requests
    assert len(set(requests)) == len(requests)


def test_the_order_of_a_dictionary_and_of_memory_does_not_matter() -> None:
    both = {"a": ROW, "b": ROW}
    assert key(INFER, inputs=both) == key(INFER, inputs=dict(reversed(both.items())))
    across = np.arange(12, dtype=np.float32).reshape(3, 4).T
    assert key(INFER, inputs={"x": across}) == key(INFER, inputs={"x": np.ascontiguousarray(across)})
    assert key(GENERATE, sampling=Sampling(seed=1, logit_bias={1: 1.0, 2: 2.0})) == key(
        GENERATE, sampling=Sampling(seed=1, logit_bias={2: 2.0, 1: 1.0})
    )


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(MAX_KEY + 1, dtype=np.uint8),
        np.array([b"x" * (MAX_KEY + 1)], dtype=object),
        np.array([b"x" * 9] * (MAX_KEY // 10), dtype=object),
    ],
)
def test_a_large_request_has_no_key(array: Array) -> None:
    assert key(INFER, inputs={"x": array}) is None


def test_what_cannot_be_sent_has_no_key() -> None:
    assert key(GENERATE, prompt=TextPrompt("\ud800")) is None
    assert key(INFER, inputs={"x": np.array([1], dtype=object)}) is None
    assert key(GENERATE, sampling=Sampling(seed=2**70)) is None


def test_one_right_answer_has_what_is_greedy_or_seeded_and_every_tensor() -> None:
    assert is_deterministic(INFER)
    assert is_deterministic(GENERATE)
    assert is_deterministic(msgspec.structs.replace(GENERATE, sampling=Sampling(temperature=0)))
    assert not is_deterministic(msgspec.structs.replace(GENERATE, sampling=Sampling()))


def test_a_models_prefix_begins_the_keys_of_that_version_alone() -> None:
    def prefix(name: str, version: str = "1", **settings: Any) -> bytes:
        spec = ModelSpec(
            name=ModelName(name), version=Version(version), kind=ModelKind.TENSOR, settings=ModelConfig(**settings)
        )
        return spec_prefix(spec)

    asked = model_prefix(ModelId(ModelName("m"), Version("1")))
    assert prefix("m").startswith(asked)
    assert not any(prefix(*other).startswith(asked) for other in (("m", "11"), ("m", "2"), ("mm", "1"), ("", "m1")))
    assert prefix("m", uri="a.onnx") != prefix("m", uri="b.onnx")
    assert prefix("m", cache=ResponseCacheConfig()) == prefix("m")


def test_answers_come_back_as_they_were() -> None:
    logprob = TokenLogprob(5, b"\xff", -0.5, ((5, b"\xff", -0.5), (6, b"x", -1.0)))
    chunks = [Chunk("a", (1, 2), (logprob,)), Chunk("", (), (), FinishReason.STOP, Usage(3, 2, 1))]
    assert decode_answers(encode_answers(chunks)) == chunks


@pytest.mark.parametrize("name", DTYPES)
def test_tensors_come_back_bit_by_bit_and_cannot_be_written(name: str) -> None:
    if name == "BYTES":
        array: Array = np.array([[b"a", b""], [b"\xff\0", b"fish"]], dtype=object)
    else:
        array = np.arange(6).astype(DTYPES[name]).reshape(2, 3).T
    empty = np.zeros((0, 3), dtype=array.dtype)
    (answer,) = decode_answers(encode_answers([Inferred({"y": array, "empty": empty})]))
    assert isinstance(answer, Inferred)
    for sent, got in ((array, answer.outputs["y"]), (empty, answer.outputs["empty"])):
        assert (got.dtype, got.shape) == (sent.dtype, sent.shape)
        np.testing.assert_array_equal(got, sent)
        assert not got.flags.writeable


@pytest.mark.parametrize(
    "value", [b"", b"\xc1", msgspec.msgpack.encode([["Chunk", 5]]), b"\x91\x93\xa8Inferred\x81\xa1y"]
)
def test_a_value_that_cannot_be_read_is_an_error_of_ours(value: bytes) -> None:
    with pytest.raises(ShoalError, match="cannot be read"):
        decode_answers(value)


def test_the_size_of_an_answer_is_about_what_it_takes() -> None:
    assert 5000 < size_of(Chunk("x" * 5000, (1,))) < 6000
    assert 4000 < size_of(Inferred({"y": np.zeros(1000, dtype=np.float32)})) < 5000
    assert size_of(Inferred({"y": np.array([b"x" * 5000], dtype=object)})) > 5000
    assert size_of(Chunk("", (1,), (TokenLogprob(1, b"", 0.0, ((1, b"", 0.0),) * 20),))) > 2000
