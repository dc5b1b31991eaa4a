"""Rows to their shards and back, each where it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.config import ShardConfig
from shoal.errors import EngineFailed, InvalidRequest
from shoal.router import gather, scatter, sharding
from shoal.types import Tensors

BY_INPUT = ShardConfig(count=4, key="id")
BY_KEY = ShardConfig(count=4)
VALUES = st.lists(st.integers(-50, 50) | st.text(max_size=3), max_size=40)


def request(ids: Any, **inputs: Any) -> Tensors:
    return {"id": np.array(ids), **inputs}


@given(VALUES)
def test_every_row_goes_to_its_shard_and_comes_back_to_its_place(values: list[int | str]) -> None:
    ids = np.array([str(value).encode() for value in values], dtype=object)
    inputs = {"id": ids, "x": np.arange(len(values) * 3).reshape(-1, 3)}
    parts = scatter(inputs, "", BY_INPUT)
    shard_of = sharding(BY_INPUT)
    for part in parts:
        assert all(shard_of(key.decode()) == part.shard for key in part.inputs["id"])
        assert len(part.inputs["x"]) == len(part.inputs["id"]) == len(part.rows)
    assert len({part.shard for part in parts}) == len(parts)
    whole = gather(parts, [{"id": part.inputs["id"], "x": part.inputs["x"]} for part in parts])
    np.testing.assert_array_equal(whole["id"], ids)
    np.testing.assert_array_equal(whole["x"], inputs["x"])
    assert whole["id"].dtype == object


def test_an_integer_in_a_tensor_and_its_text_are_the_same_key() -> None:
    numbers = scatter(request([[7], [7]]), "", BY_INPUT)
    text = scatter(request(np.array([b"7"], dtype=object)), "", BY_INPUT)
    header = scatter({"x": np.zeros(1)}, "7", BY_KEY)
    assert numbers[0].shard == text[0].shard == header[0].shard


def test_a_row_that_has_no_shard_is_told_with_its_input() -> None:
    ranges = ShardConfig(count=2, by="range", key="id", bounds=("10",))
    with pytest.raises(InvalidRequest, match="input 'id': the key 'fish' must be a number") as caught:
        scatter(request(np.array([b"7", b"fish"], dtype=object)), "", ranges)
    assert caught.value.param == "id"


def test_a_request_for_one_shard_is_not_copied() -> None:
    inputs = request([5, 5, 5], x=np.zeros((3, 2)))
    (part,) = scatter(inputs, "", BY_INPUT)
    assert part.inputs is inputs
    outputs = {"y": np.ones(3)}
    assert gather([part], [outputs]) is outputs


@pytest.mark.parametrize(
    ("inputs", "key", "config", "says", "param"),
    [
        ({"x": np.zeros(3)}, "", BY_INPUT, "input 'id' is missing", "id"),
        ({"id": np.zeros((2, 2))}, "", BY_INPUT, "one value a row", "id"),
        ({"id": np.array(3)}, "", BY_INPUT, "one value a row", "id"),
        ({"id": np.arange(9), "x": np.zeros(4)}, "", BY_INPUT, "input 'x' must have 9 rows", "x"),
        ({"id": np.arange(9), "x": np.array(4)}, "", BY_INPUT, "input 'x' must have 9 rows", "x"),
        ({"x": np.zeros(3)}, "", BY_KEY, "needs a key", "key"),
    ],
)
def test_a_request_that_cannot_be_split_is_refused(
    inputs: Tensors, key: str, config: ShardConfig, says: str, param: str
) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        scatter(inputs, key, config)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ({"z": np.zeros(1)}, "different outputs"),
        ({"y": np.zeros(1), "z": np.zeros(1)}, "different outputs"),
        ({"y": np.zeros(1, dtype=np.float32)}, "does not fit"),
        ({"y": np.zeros((1, 2))}, "does not fit"),
        ({"y": np.zeros(2)}, "does not fit"),
        ({"y": np.array(1.0)}, "does not fit"),
    ],
)
def test_answers_that_do_not_fit_together_are_an_error_of_the_engines(second: Tensors, says: str) -> None:
    ids = [n for n in range(50) if sharding(BY_INPUT)(n) == 0][:1] + [
        n for n in range(50) if sharding(BY_INPUT)(n) == 1
    ][:1]
    parts = scatter(request(ids), "", BY_INPUT)
    with pytest.raises(EngineFailed, match=says):
        gather(parts, [{"y": np.zeros(1)}, second])
