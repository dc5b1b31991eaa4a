from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.cluster import deal_shards


@pytest.mark.parametrize(
    ("models", "workers", "expected"),
    [
        ({"a@1": None}, 2, [("a@1",), ("a@1",)]),
        ({"a@1": 2}, 1, [("a@1#0", "a@1#1")]),
        ({"a@1": 2}, 2, [("a@1#0",), ("a@1#1",)]),
        ({"a@1": 2}, 3, [("a@1#0",), ("a@1#1",), ("a@1#0",)]),
        ({"a@1": 3}, 2, [("a@1#0", "a@1#2"), ("a@1#1",)]),
        ({"a@1": 2, "b@2": None}, 2, [("a@1#0", "b@2"), ("a@1#1", "b@2")]),
        ({}, 2, [(), ()]),
    ],
)
def test_shards_are_dealt_in_turn(models: dict[str, int | None], workers: int, expected: list[tuple[str, ...]]) -> None:
    assert deal_shards(models, workers) == expected


@given(st.integers(1, 20), st.integers(1, 20))
def test_every_shard_is_somewhere_and_no_worker_is_empty_or_holds_one_twice(shards: int, workers: int) -> None:
    dealt = deal_shards({"m": shards}, workers)
    assert {part for parts in dealt for part in parts} == {f"m#{shard}" for shard in range(shards)}
    assert all(parts and len(set(parts)) == len(parts) for parts in dealt)
