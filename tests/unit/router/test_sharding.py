"""Where a key belongs: stable for ever, even, and moved as little as can be."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.config import ModelConfig, ShardConfig
from shoal.errors import InvalidRequest
from shoal.router import sharding
from shoal.router.sharding import SLOTS, deal_slots, hash_of, jump

KEYS = [f"key {number}" for number in range(5000)]


def by_hash(count: int) -> ShardConfig:
    return ShardConfig(count=count)


def ring(count: int) -> ShardConfig:
    return ShardConfig(count=count, by="consistent_hash")


def test_a_key_stays_where_it_is_over_processes_and_versions() -> None:
    keys = ("", "a", "salmon", "🐟", "42", 42, -1, 0.5)
    assert [sharding(by_hash(7))(key) for key in keys] == [6, 3, 1, 0, 5, 5, 0, 3]
    assert [sharding(ring(7))(key) for key in keys] == [6, 6, 1, 4, 1, 1, 3, 6]


@pytest.mark.parametrize("make", [by_hash, ring])
@pytest.mark.parametrize("count", [1, 2, 3, 10, 64])
def test_keys_spread_over_all_shards(make: type[ShardConfig], count: int) -> None:
    shard_of = sharding(make(count))
    found = Counter(map(shard_of, KEYS))
    assert set(found) == set(range(count))
    assert max(found.values()) < 1.6 * len(KEYS) / count
    assert min(found.values()) > 0.4 * len(KEYS) / count


@given(st.integers(0, 2**64 - 1), st.integers(1, 200))
def test_with_one_shard_more_a_hash_stays_or_goes_to_the_new_one(hashed: int, count: int) -> None:
    before, after = jump(hashed, count), jump(hashed, count + 1)
    assert 0 <= before < count
    assert after in (before, count)


@pytest.mark.parametrize("count", [2, 5, 20, 100])
def test_a_shard_that_goes_moves_little_more_than_its_share_of_the_circle(count: int) -> None:
    before = deal_slots(range(count))
    for gone in {0, count // 2, count - 1}:
        after = deal_slots([shard for shard in range(count) if shard != gone])
        moved = sum(one != other for one, other in zip(before, after, strict=True))
        share = before.count(gone)
        assert share <= moved <= share + 0.35 * SLOTS / count
        assert gone not in after


@given(st.sets(st.text(max_size=8), min_size=1, max_size=40))
def test_no_shard_owns_more_of_the_circle_than_its_bound(shards: set[str]) -> None:
    owned = Counter(deal_slots(sorted(shards)))
    assert set(owned) == shards
    assert max(owned.values()) <= -(-5 * SLOTS // (4 * len(shards)))
    assert sum(owned.values()) == SLOTS


def test_text_and_numbers_with_the_same_digits_are_one_key() -> None:
    assert hash_of(42) == hash_of("42") != hash_of(42.5)


def test_ranges_of_text_and_of_numbers() -> None:
    text = sharding(ShardConfig(count=3, by="range", bounds=("h", "q")))
    assert [text(key) for key in ("", "a", "g~", "h", "p", "q", "z")] == [0, 0, 0, 1, 1, 2, 2]
    numbers = sharding(ShardConfig(count=3, by="range", bounds=("9", "10.5")))
    assert [numbers(key) for key in (-5, 8.9, "9", "10", 10.5, "1e9", 2**70)] == [0, 0, 1, 1, 2, 2, 2]
    assert sharding(ShardConfig(count=1, by="range"))("anything") == 0


@pytest.mark.parametrize("key", ["fish", "", "nan"])
def test_a_key_that_is_no_number_has_no_place_among_numbers(key: str) -> None:
    shard_of = sharding(ShardConfig(count=2, by="range", bounds=("0",)))
    with pytest.raises(InvalidRequest, match=f"the key '{key}' must be a number"):
        shard_of(key)


@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=8, unique=True), st.integers(-2000, 2000))
def test_a_range_begins_with_its_bound(bounds: list[int], key: int) -> None:
    ordered = sorted(bounds)
    shard = sharding(ShardConfig(count=len(bounds) + 1, by="range", bounds=tuple(map(str, ordered))))(key)
    assert shard == sum(bound <= key for bound in ordered)


@pytest.mark.parametrize(
    ("shards", "says"),
    [
        ({"count": 3, "by": "range", "bounds": ["a"]}, "3 ranges need 2 bounds, not 1"),
        ({"count": 2, "bounds": ["a"]}, "bounds are for shards by range, not by hash"),
        ({"count": 3, "by": "range", "bounds": ["b", "a"]}, "bounds must ascend as text"),
        ({"count": 3, "by": "range", "bounds": ["10", "9"]}, "bounds must ascend as numbers"),
        ({"count": 0}, ">= 1"),
        ({"count": 257}, "<= 256"),
    ],
)
def test_a_configuration_that_means_nothing_is_refused(shards: dict[str, object], says: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=says):
        msgspec.convert({"shards": shards}, ModelConfig)
