"""What holds for every store, whatever it keeps its entries in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.kvstore import Found, MemoryStore, SqliteStore, Store

MAX_BYTES = 2**20


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, clock: Clock, tmp_path: Path) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore(max_entries=10_000, max_bytes=MAX_BYTES, clock=clock)
        return
    with closing(SqliteStore(tmp_path / "cache.db", max_bytes=MAX_BYTES, clock=clock)) as made:
        yield made
        made.check_integrity()


def test_what_was_set_is_got_until_it_is_deleted(store: Store) -> None:
    assert store.get(b"a") is None
    assert store.set(b"a", b"1")
    assert store.set(b"a", b"2")
    assert (store.get(b"a"), store.exists(b"a")) == (Found(b"2", None), True)
    assert store.delete(b"a")
    assert not store.delete(b"a")
    assert (store.get(b"a"), store.exists(b"a")) == (None, False)


def test_an_entry_ends_with_its_time_and_tells_how_much_is_left(store: Store, clock: Clock) -> None:
    store.set(b"a", b"1", ttl=5.0)
    clock.now += 2.0
    assert store.get(b"a") == Found(b"1", 3.0)
    clock.now += 3.0
    assert (store.get(b"a"), store.exists(b"a"), store.delete(b"a")) == (None, False, False)


def test_setting_again_starts_the_time_again(store: Store, clock: Clock) -> None:
    store.set(b"a", b"1", ttl=5.0)
    clock.now += 4.0
    store.set(b"a", b"2", ttl=5.0)
    clock.now += 4.0
    assert store.get(b"a") == Found(b"2", 1.0)


@pytest.mark.parametrize("ttl", [0.0, -1.0, float("nan")])
def test_a_time_to_live_that_is_none_is_refused(store: Store, ttl: float) -> None:
    with pytest.raises(ValueError, match="above 0 seconds"):
        store.set(b"a", b"", ttl=ttl)
    assert not store.exists(b"a")


def test_clearing_drops_what_begins_with_the_prefix_and_nothing_else(store: Store) -> None:
    for key in (b"a", b"ab", b"a%", b"b", b"\0"):
        store.set(key, key)
    assert store.clear(b"a%") == 1
    assert store.clear(b"a") == 2
    assert [key for key in (b"a", b"ab", b"a%", b"b", b"\0") if store.exists(key)] == [b"b", b"\0"]
    store.set(b"", b"1")
    assert store.clear() == 3
    assert not store.exists(b"")


def test_what_was_used_longest_ago_makes_room(store: Store) -> None:
    keys = [b"%d" % index for index in range(400)]
    for key in keys:
        store.set(key, b"x" * 8000)
        store.get(b"0")
    assert store.exists(b"0")
    assert store.exists(keys[-1])
    assert not store.exists(b"1")
    held = [store.exists(key) for key in keys[1:]]
    assert held == sorted(held)  # the younger half
    assert 20 < sum(held) < 200


def test_an_entry_that_is_too_large_is_not_kept_and_costs_no_other_its_place(store: Store) -> None:
    store.set(b"a", b"1")
    store.set(b"b", b"1")
    assert not store.set(b"a", b"x" * MAX_BYTES)
    assert (store.get(b"a"), store.get(b"b")) == (None, Found(b"1", None))


def _memory(clock: Callable[[], float], _: Path) -> Store:
    return MemoryStore(max_entries=10_000, max_bytes=MAX_BYTES, clock=clock)


def _sqlite(clock: Callable[[], float], path: Path) -> Store:
    return SqliteStore(path, max_bytes=MAX_BYTES, clock=clock)


KEYS = st.sampled_from([b"", b"a", b"ab", b"b\0c", b"long" * 500])
STEPS = st.lists(
    st.tuples(st.just("set"), KEYS, st.binary(max_size=8), st.sampled_from([None, 1.0, 3.0]))
    | st.tuples(st.sampled_from(["get", "delete", "clear"]), KEYS)
    | st.tuples(st.just("wait"), st.sampled_from([0.5, 2.0])),
    max_size=30,
)


@pytest.mark.parametrize("make", [_memory, _sqlite])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_with_room_for_all_a_store_is_a_dictionary_whose_entries_end(
    make: Callable[[Callable[[], float], Path], Store], tmp_path: Path, steps: list[tuple[object, ...]]
) -> None:
    clock, model = Clock(), dict[bytes, tuple[bytes, float]]()
    store = make(clock, tmp_path / "cache.db")
    store.clear()
    for step in steps:
        match step:
            case ("set", bytes(key), bytes(value), None | float() as ttl):
                assert store.set(key, value, ttl=ttl)
                model[key] = value, clock.now + (ttl or float("inf"))
            case ("get", bytes(key)):
                found = store.get(key)
                value, until = model.get(key, (b"", 0.0))
                assert (found is not None) == (clock.now < until)
                assert found is None or found.value == value
            case ("delete", bytes(key)):
                assert store.delete(key) == (clock.now < model.pop(key, (b"", 0.0))[1])
            case ("clear", bytes(prefix)):
                store.clear(prefix)
                model = {key: entry for key, entry in model.items() if not key.startswith(prefix)}
            case ("wait", float(seconds)):
                clock.now += seconds
    if isinstance(store, SqliteStore):
        store.check_integrity()
        store.close()
