from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from shoal.discovery import EmbeddedStore, Store, open_store
from shoal.discovery.base import MemoryStore
from shoal.errors import ConfigError, ShoalError


@contextmanager
def opened(file: Path) -> Iterator[EmbeddedStore]:
    with closing(EmbeddedStore(file)) as store:
        yield store


@pytest.fixture(params=["memory", "embedded"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else EmbeddedStore(tmp_path / "registry.db")
    yield made
    made.close()


def test_what_was_saved_is_loaded_in_the_order_it_was_first_written(store: Store) -> None:
    assert store.load() == {}
    store.save({"b": b"1", "a": b"2", "c": b"3"})
    store.save({"b": b"4", "c": None, "unknown": None})
    assert list(store.load().items()) == [("b", b"4"), ("a", b"2")]


def test_it_is_still_there_after_a_restart(tmp_path: Path) -> None:
    with opened(tmp_path / "new" / "registry.db") as store:
        store.save({"models/m@1": b"{}"})
    with opened(tmp_path / "new" / "registry.db") as store:
        assert store.load() == {"models/m@1": b"{}"}


def test_a_second_owner_is_told_who_has_it(tmp_path: Path) -> None:
    file = tmp_path / "registry.db"
    with opened(file), pytest.raises(ConfigError, match="another coordinator owns the registry"):
        EmbeddedStore(file)
    with opened(file) as store:  # the first one has let go
        assert store.load() == {}


@pytest.mark.parametrize(
    "content", [b"no database at all, but long enough to be one" * 100, b"SQLite format 3\0" + b"\xff" * 8192]
)
def test_a_damaged_file_is_an_error_that_says_how_to_mend_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "registry.db"
    file.write_bytes(content)
    for _ in range(2):  # nothing was mended or locked by looking
        with pytest.raises(ConfigError, match=r"cannot be read .*move it away to begin again"):
            EmbeddedStore(file)
    assert file.read_bytes() == content


def test_a_page_that_was_overwritten_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "registry.db"
    with opened(file) as store:
        store.save({f"models/{number}@1": b"x" * 200 for number in range(200)})
    whole = bytearray(file.read_bytes())
    whole[8192:12288] = b"\xa5" * 4096
    file.write_bytes(whole)
    with pytest.raises(ConfigError, match="cannot be read"):
        EmbeddedStore(file)


def test_a_file_of_a_later_format_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "registry.db"
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA user_version = 7")
    with pytest.raises(ConfigError, match="is of format 7; this version of Shoal reads up to 1"):
        EmbeddedStore(file)


def test_a_save_that_fails_changes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "registry.db") as store:
        store.save({"a": b"1"})
        with pytest.raises(ShoalError, match="nothing has changed"):
            store.save({"a": b"2", "b": object()})  # type: ignore[dict-item]
        assert store.load() == {"a": b"1"}


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot open the registry"):
        EmbeddedStore(tmp_path / "file" / "registry.db")


@pytest.mark.parametrize("url", ["embedded://relative/file", "embedded:///", "sqlite:///x", "etcd://here", "/a/file"])
def test_a_url_that_names_no_file_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="embedded:///FILE"):
        open_store(url)


def test_the_url_has_the_files_whole_path(tmp_path: Path) -> None:
    with closing(open_store(f"embedded://{tmp_path}/registry.db")) as store:
        store.save({"a": b"1"})
    assert (tmp_path / "registry.db").is_file()
