from __future__ import annotations

import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from shoal.errors import ConfigError
from shoal.kvstore import Found, SqliteStore
from shoal.kvstore import sqlite as module
from shoal.kvstore.sqlite import Entry, is_damage, remove, set_aside

MAX_BYTES = 2**20


def opened(path: Path, clock: Callable[[], float] = lambda: 1000.0, max_bytes: int = MAX_BYTES) -> SqliteStore:
    return SqliteStore(path, max_bytes=max_bytes, clock=clock)


def alter(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


def test_what_was_kept_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "c")) as store:
        store.set(b"a", b"1", ttl=10.0)
        store.set(b"b", b"2", ttl=1.0)
    with closing(opened(tmp_path / "c", lambda: 1005.0)) as store:
        assert (store.get(b"a"), store.get(b"b"), len(store)) == (Found(b"1", 5.0), None, 1)
        store.check_integrity()


def test_a_clock_that_ran_ahead_when_an_entry_was_stored_does_not_make_it_live_longer(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "c", lambda: 1e9)) as store:  # years ahead
        store.set(b"a", b"1", ttl=10.0)
    with closing(opened(tmp_path / "c", lambda: 1000.0)) as store:
        assert store.get(b"a") is None
        assert not store.exists(b"a")


def test_keys_with_equal_hashes_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_digest", lambda key: 1)
    with closing(opened(tmp_path / "c")) as store:
        store.set(b"a", b"1")
        assert store.get(b"b") is None
        assert not store.delete(b"b")
        store.set(b"b", b"2")
        assert (store.get(b"a"), store.get(b"b")) == (None, Found(b"2", None))


def test_a_value_that_has_changed_on_disk_is_not_served_and_soon_gone(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "c")) as store:
        store.set(b"a", b"1")
    alter(tmp_path / "c", "UPDATE entries SET value = x'32'")
    with closing(opened(tmp_path / "c")) as store:
        assert (store.get(b"a"), store.damaged) == (None, 1)
        store.set(b"b", b"2")
        assert (len(store), store.may_hold(b"a")) == (1, False)


@pytest.mark.parametrize(("size", "count", "times"), [(100, 200, 40), (2100, 200, 6), (30_000, 20, 6)])
def test_files_stay_within_their_bytes(tmp_path: Path, size: int, count: int, times: int) -> None:
    with closing(opened(tmp_path / "c")) as store:
        for index in range(times):
            store.set_many([Entry(b"%d-%d" % (index, n), b"x" * size) for n in range(count)])
            assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= MAX_BYTES
        assert store.evictions > 0
        assert store.bytes_used > MAX_BYTES / 4
        store.check_integrity()


def test_entries_are_bounded_in_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ENTRIES", 10)
    with closing(opened(tmp_path / "c")) as store:
        for index in range(30):
            store.set(b"%d" % index, b"")
        assert len(store) == 10
        assert (store.exists(b"29"), store.exists(b"0")) == (True, False)


def test_a_file_of_another_version_begins_anew(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "c")) as store:
        store.set(b"a", b"1")
    alter(tmp_path / "c", "ALTER TABLE entries ADD COLUMN more")
    alter(tmp_path / "c", "PRAGMA user_version = 99")
    with closing(opened(tmp_path / "c")) as store:
        assert store.get(b"a") is None
        assert store.set(b"a", b"2")
        store.check_integrity()


def test_another_programs_database_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "theirs"
    alter(path, "CREATE TABLE entries (accounts)")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="another program's"):
        opened(path)
    assert path.read_bytes() == before


def test_a_damaged_file_is_known_as_such_and_can_be_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.write_bytes(b"no database at all, but long enough to be looked at" * 100)
    with pytest.raises(sqlite3.DatabaseError) as raised:
        opened(path)
    assert is_damage(raised.value)
    assert set_aside(path).read_bytes().startswith(b"no database")
    with closing(opened(path)) as store:
        assert store.set(b"a", b"1")
    remove(path)
    assert [file.name for file in tmp_path.iterdir()] == ["c.damaged"]


def test_an_error_that_may_pass_is_no_damage() -> None:
    with closing(sqlite3.connect(":memory:")) as connection, pytest.raises(sqlite3.Error) as raised:
        connection.execute("SELECT * FROM nothing")
    assert not is_damage(raised.value)


def test_a_failed_write_leaves_nothing_half_done(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "c")) as store:
        store.set(b"a", b"1")
        with pytest.raises(ValueError, match="ttl"):
            store.set_many([Entry(b"b", b"2"), Entry(b"c", b"3", ttl=-1.0)])
        assert (store.get(b"a"), store.get(b"b")) == (Found(b"1", None), None)


def test_answers_are_for_their_owner_alone(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "c")) as store:
        store.set(b"a", b"1")
        modes = {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert modes == {0o600}
