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


def value(cache: MemoryStore, key: bytes) -> bytes | None:
    found = cache.get(key)
    return None if found is None else found.value


def store(clock: Clock | None = None, *, max_entries: int = 3, max_bytes: int = 10_000) -> MemoryStore:
    return MemoryStore(max_entries=max_entries, max_bytes=max_bytes, clock=clock or Clock())


def test_what_was_set_is_got_until_it_is_deleted() -> None:
    cache = store()
    assert cache.get(b"a") is None
    assert cache.set(b"a", b"1")
    assert cache.set(b"a", b"2")
    assert (value(cache, b"a"), cache.exists(b"a"), len(cache)) == (b"2", True, 1)
    assert cache.delete(b"a")
    assert not cache.delete(b"a")
    assert (value(cache, b"a"), cache.exists(b"a"), len(cache), cache.bytes_used) == (None, False, 0, 0)


def test_keys_with_equal_hashes_are_told_apart() -> None:
    class Same(bytes):
        def __hash__(self) -> int:
            return 1

    cache = store()
    cache.set(Same(b"a"), b"1")
    cache.set(Same(b"b"), b"2")
    assert (value(cache, Same(b"a")), value(cache, Same(b"b"))) == (b"1", b"2")


def test_the_least_recently_used_entry_makes_room() -> None:
    cache = store()
    for key in (b"a", b"b", b"c"):
        cache.set(key, b"")
    cache.get(b"a")
    cache.exists(b"b")  # looking is not using
    cache.set(b"d", b"")
    assert [key for key in (b"a", b"b", b"c", b"d") if cache.exists(key)] == [b"a", b"c", b"d"]
    assert cache.stats.evictions == 1


def test_bytes_are_bounded_keys_included() -> None:
    cache = store(max_entries=100, max_bytes=10_000)
    for index in range(20):
        cache.set(b"%d" % index * 500, b"x" * 500)
        cache.check_integrity()
    assert 0 < len(cache) < 10
    assert cache.exists(b"19" * 500)


def test_a_value_larger_than_the_store_is_not_kept_and_costs_no_other_its_place() -> None:
    cache = store(max_bytes=2000)
    cache.set(b"a", b"1")
    cache.set(b"b", b"1")
    assert not cache.set(b"a", b"x" * 2000)
    assert (value(cache, b"a"), value(cache, b"b"), cache.stats.evictions) == (None, b"1", 0)


def test_a_store_without_room_keeps_nothing() -> None:
    cache = store(max_entries=0)
    assert not cache.set(b"a", b"1")
    assert cache.get(b"a") is None


def test_an_entry_ends_with_its_time() -> None:
    clock = Clock()
    cache = store(clock)
    cache.set(b"a", b"1", ttl=5.0)
    clock.now = 4.9
    assert value(cache, b"a") == b"1"
    clock.now = 5.0
    assert not cache.exists(b"a")
    assert not cache.delete(b"a")
    assert cache.get(b"a") is None
    assert cache.stats == Stats(hits=1, misses=1, evictions=0, expirations=1)
    assert len(cache) == 0


def test_setting_again_starts_the_time_again() -> None:
    clock = Clock()
    cache = store(clock)
    cache.set(b"a", b"1", ttl=5.0)
    clock.now = 4.0
    cache.set(b"a", b"2", ttl=5.0)
    clock.now = 8.0
    assert value(cache, b"a") == b"2"
    cache.set(b"a", b"3")
    clock.now = 1e9
    assert value(cache, b"a") == b"3"


def test_under_pressure_the_expired_go_before_the_living() -> None:
    clock = Clock()
    cache = store(clock)
    cache.set(b"living", b"")  # the least recently used
    cache.set(b"short", b"", ttl=1.0)
    cache.set(b"long", b"", ttl=10.0)
    clock.now = 2.0
    cache.set(b"new", b"")
    assert [key for key in (b"living", b"short", b"long", b"new") if cache.exists(key)] == [b"living", b"long", b"new"]
    assert (cache.stats.evictions, cache.stats.expirations) == (0, 1)


def test_an_entry_that_was_set_again_does_not_go_at_its_earlier_time() -> None:
    clock = Clock()
    cache = store(clock)
    for key, ttl in ((b"oldest", 9.0), (b"b", 9.0), (b"a", 1.0), (b"a", 9.0)):
        cache.set(key, b"", ttl=ttl)
    clock.now = 2.0
    cache.set(b"new", b"")
    assert [key for key in (b"oldest", b"a", b"b", b"new") if cache.exists(key)] == [b"a", b"b", b"new"]


@pytest.mark.parametrize("ttl", [0.0, -1.0, float("nan")])
def test_a_time_to_live_that_is_none_is_refused(ttl: float) -> None:
    with pytest.raises(ValueError, match="above 0 seconds"):
        store().set(b"a", b"", ttl=ttl)


def test_bookkeeping_stays_bounded_when_the_same_keys_are_set_and_deleted_for_ever() -> None:
    cache = store()
    for index in range(1000):
        cache.set(b"a", b"", ttl=1000.0)
        cache.set(b"b%d" % index, b"", ttl=1000.0)
        cache.delete(b"b%d" % index)
        cache.check_integrity()


class LikeADict(RuleBasedStateMachine):
    """Never more than its bounds, and never another answer than the last one set in time."""

    KEYS = st.sampled_from([b"a", b"b", b"c", b"long" * 50])

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.cache = store(self.clock, max_bytes=2500)
        self.model: dict[bytes, tuple[bytes, float]] = {}

    @rule(key=KEYS, value=st.binary(max_size=4).map(lambda b: b * 300), ttl=st.none() | st.sampled_from([1.0, 3.0]))
    def set(self, key: bytes, value: bytes, ttl: float | None) -> None:
        if self.cache.set(key, value, ttl=ttl):
            self.model[key] = value, self.clock.now + (ttl or float("inf"))
            assert self.cache.exists(key)
        else:
            self.model.pop(key, None)

    @rule(key=KEYS)
    def get(self, key: bytes) -> None:
        found = value(self.cache, key)
        assert self.cache.exists(key) == (found is not None)
        if found is not None:
            last, until = self.model[key]
            assert (found, self.clock.now < until) == (last, True)

    @rule(key=KEYS)
    def delete(self, key: bytes) -> None:
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
