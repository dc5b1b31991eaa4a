from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shoal.kvstore import MemoryStore, Stats


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def store(clock: Clock | None = None, *, max_entries: int = 3, max_bytes: int = 10_000) -> MemoryStore:
    return MemoryStore(max_entries=max_entries, max_bytes=max_bytes, clock=clock or Clock())


def test_what_was_set_is_got_until_it_is_deleted() -> None:
    cache = store()
    assert cache.get("a") is None
    assert cache.set("a", b"1")
    assert cache.set("a", b"2")
    assert (cache.get("a"), cache.exists("a"), len(cache)) == (b"2", True, 1)
    assert cache.delete("a")
    assert not cache.delete("a")
    assert (cache.get("a"), cache.exists("a"), len(cache), cache.bytes_used) == (None, False, 0, 0)


def test_text_and_bytes_are_different_keys() -> None:
    cache = store()
    cache.set("a", b"text")
    cache.set(b"a", b"bytes")
    assert (cache.get("a"), cache.get(b"a")) == (b"text", b"bytes")


def test_keys_with_equal_hashes_are_told_apart() -> None:
    class Same(str):
        def __hash__(self) -> int:
            return 1

    cache = store()
    cache.set(Same("a"), b"1")
    cache.set(Same("b"), b"2")
    assert (cache.get(Same("a")), cache.get(Same("b"))) == (b"1", b"2")


def test_the_least_recently_used_entry_makes_room() -> None:
    cache = store()
    for key in "abc":
        cache.set(key, b"")
    cache.get("a")
    cache.exists("b")  # looking is not using
    cache.set("d", b"")
    assert [key for key in "abcd" if cache.exists(key)] == ["a", "c", "d"]
    assert cache.stats.evictions == 1


def test_bytes_are_bounded_keys_included() -> None:
    cache = store(max_entries=100, max_bytes=10_000)
    for index in range(20):
        cache.set(f"{index}" * 500, b"x" * 500)
        cache.check_integrity()
    assert 0 < len(cache) < 10
    assert cache.exists("19" * 500)


def test_a_value_larger_than_the_store_is_not_kept_and_costs_no_other_its_place() -> None:
    cache = store(max_bytes=2000)
    cache.set("a", b"1")
    cache.set("b", b"1")
    assert not cache.set("a", b"x" * 2000)
    assert (cache.get("a"), cache.get("b"), cache.stats.evictions) == (None, b"1", 0)


def test_a_store_without_room_keeps_nothing() -> None:
    cache = store(max_entries=0)
    assert not cache.set("a", b"1")
    assert cache.get("a") is None


def test_an_entry_ends_with_its_time() -> None:
    clock = Clock()
    cache = store(clock)
    cache.set("a", b"1", ttl=5.0)
    clock.now = 4.9
    assert cache.get("a") == b"1"
    clock.now = 5.0
    assert not cache.exists("a")
    assert not cache.delete("a")
    assert cache.get("a") is None
    assert cache.stats == Stats(hits=1, misses=1, evictions=0, expirations=1)
    assert len(cache) == 0


def test_setting_again_starts_the_time_again() -> None:
    clock = Clock()
    cache = store(clock)
    cache.set("a", b"1", ttl=5.0)
    clock.now = 4.0
    cache.set("a", b"2", ttl=5.0)
    clock.now = 8.0
    assert cache.get("a") == b"2"
    cache.set("a", b"3")
    clock.now = 1e9
    assert cache.get("a") == b"3"


def test_under_pressure_the_expired_go_before_the_living() -> None:
    clock = Clock()
    cache = store(clock)
    cache.set("living", b"")  # the least recently used
    cache.set("short", b"", ttl=1.0)
    cache.set("long", b"", ttl=10.0)
    clock.now = 2.0
    cache.set("new", b"")
    assert [key for key in ("living", "short", "long", "new") if cache.exists(key)] == ["living", "long", "new"]
    assert (cache.stats.evictions, cache.stats.expirations) == (0, 1)


def test_an_entry_that_was_set_again_does_not_go_at_its_earlier_time() -> None:
    clock = Clock()
    cache = store(clock)
    for key, ttl in (("oldest", 9.0), ("b", 9.0), ("a", 1.0), ("a", 9.0)):
        cache.set(key, b"", ttl=ttl)
    clock.now = 2.0
    cache.set("new", b"")
    assert [key for key in ("oldest", "a", "b", "new") if cache.exists(key)] == ["a", "b", "new"]


@pytest.mark.parametrize("ttl", [0.0, -1.0, float("nan")])
def test_a_time_to_live_that_is_none_is_refused(ttl: float) -> None:
    with pytest.raises(ValueError, match="above 0 seconds"):
        store().set("a", b"", ttl=ttl)


def test_bookkeeping_stays_bounded_when_the_same_keys_are_set_and_deleted_for_ever() -> None:
    cache = store()
    for index in range(1000):
        cache.set("a", b"", ttl=1000.0)
        cache.set(f"b{index}", b"", ttl=1000.0)
        cache.delete(f"b{index}")
        cache.check_integrity()


class LikeADict(RuleBasedStateMachine):
    """Never more than its bounds, and never another answer than the last one set in time."""

    KEYS = st.sampled_from(["a", "b", "c", b"a", "long" * 50])

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.cache = store(self.clock, max_bytes=2500)
        self.model: dict[str | bytes, tuple[bytes, float]] = {}

    @rule(key=KEYS, value=st.binary(max_size=4).map(lambda b: b * 300), ttl=st.none() | st.sampled_from([1.0, 3.0]))
    def set(self, key: str | bytes, value: bytes, ttl: float | None) -> None:
        if self.cache.set(key, value, ttl=ttl):
            self.model[key] = value, self.clock.now + (ttl or float("inf"))
            assert self.cache.exists(key)
        else:
            self.model.pop(key, None)

    @rule(key=KEYS)
    def get(self, key: str | bytes) -> None:
        found = self.cache.get(key)
        assert self.cache.exists(key) == (found is not None)
        if found is not None:
            value, until = self.model[key]
            assert (found, self.clock.now < until) == (value, True)

    @rule(key=KEYS)
    def delete(self, key: str | bytes) -> None:
        self.cache.delete(key)
        self.model.pop(key, None)
        assert not self.cache.exists(key)

    @rule(seconds=st.sampled_from([0.5, 2.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def holds(self) -> None:
        self.cache.check_integrity()


TestLikeADict = LikeADict.TestCase
TestLikeADict.settings = settings(max_examples=50, stateful_step_count=30)
