from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from unit.coordinator.conftest import Until

from shoal.coordinator import disk_tier as module
from shoal.coordinator.disk_tier import DiskTier, cache_file, steady_wall_clock
from shoal.errors import ConfigError
from shoal.kvstore import SqliteStore


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OFF", 0.05)
    monkeypatch.setattr(module, "GATHER", 0.001)


def is_on(tier: DiskTier) -> bool:
    return not repr(tier).endswith("off>")


@asynccontextmanager
async def started(path: Path, until: Until) -> AsyncGenerator[DiskTier, None]:
    tier = DiskTier(path, max_bytes=2**20)
    tier.start()
    await until(lambda: is_on(tier))
    try:
        yield tier
    finally:
        await tier.close()


async def put(tier: DiskTier, key: bytes, until: Until) -> None:
    tier.put(key, b"value of " + key, 60.0)
    await until(lambda: tier.may_hold(key))


async def value(tier: DiskTier, key: bytes) -> bytes | None:
    found = await tier.get(key)
    return None if found is None else found.value


async def test_what_was_put_is_there_now_and_after_a_restart(tmp_path: Path, until: Until) -> None:
    path = tmp_path / "made" / "for it" / "c.db"
    async with started(path, until) as tier:
        await put(tier, b"a", until)
        assert (await value(tier, b"a"), await value(tier, b"b")) == (b"value of a", None)
        tier.put(b"b", b"last", 60.0)  # closing writes what waits
    async with started(path, until) as tier:
        assert (await value(tier, b"a"), await value(tier, b"b")) == (b"value of a", b"last")
        assert not tier.may_hold(b"c")


async def test_writes_that_the_disk_cannot_keep_up_with_are_dropped_and_counted(
    tmp_path: Path, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 10_000)
    async with started(tmp_path / "c.db", until) as tier:
        for index in range(100):
            tier.put(b"%d" % index, b"x" * 1000, 60.0)
        assert tier.dropped == 92
        await until(lambda: tier.size.entries == 8)
        await put(tier, b"later", until)


async def test_clearing_is_done_when_it_returns_for_what_waits_too(tmp_path: Path, until: Until) -> None:
    async with started(tmp_path / "c.db", until) as tier:
        await put(tier, b"a1", until)
        await put(tier, b"b1", until)
        tier.put(b"a2", b"", 60.0)
        await tier.clear(b"a")
        assert [tier.may_hold(key) for key in (b"a1", b"a2", b"b1")] == [False, False, True]
    async with started(tmp_path / "c.db", until) as tier:
        assert [tier.may_hold(key) for key in (b"a1", b"a2", b"b1")] == [False, False, True]


async def test_clearing_before_the_file_is_open_counts_too(tmp_path: Path, until: Until) -> None:
    async with started(tmp_path / "c.db", until) as tier:
        await put(tier, b"a", until)
    tier = DiskTier(tmp_path / "c.db", max_bytes=2**20)
    tier.start()
    await tier.clear(b"a")
    await until(lambda: is_on(tier))
    assert not tier.may_hold(b"a")
    await tier.close()


async def test_a_full_disk_turns_the_tier_off_for_a_while_and_fails_nothing(
    tmp_path: Path, until: Until, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with started(tmp_path / "c.db", until) as tier:
        await put(tier, b"a", until)
        with monkeypatch.context() as broken:
            broken.setattr(SqliteStore, "set_many", _fail("database or disk is full"))
            tier.put(b"b", b"", 60.0)
            await until(lambda: not is_on(tier))
            tier.put(b"c", b"", 60.0)
            assert (await tier.get(b"a"), tier.may_hold(b"a"), tier.dropped) == (None, False, 1)
        assert "goes on without its disk" in caplog.text
        await until(lambda: is_on(tier))
        assert await value(tier, b"a") == b"value of a"
        await put(tier, b"d", until)


async def test_what_cannot_be_cleared_goes_with_its_file(
    tmp_path: Path, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started(tmp_path / "c.db", until) as tier:
        await put(tier, b"a", until)
        with monkeypatch.context() as broken:
            broken.setattr(SqliteStore, "clear", _fail("database or disk is full"))
            await tier.clear(b"a")
        assert not (tmp_path / "c.db").exists()
        await until(lambda: is_on(tier))
        assert not tier.may_hold(b"a")


async def test_a_damaged_file_is_set_aside_and_the_tier_goes_on(
    tmp_path: Path, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "c.db").write_bytes(b"not a database " * 1000)
    async with started(tmp_path / "c.db", until) as tier:
        await put(tier, b"a", until)
    assert "was damaged" in caplog.text
    assert (tmp_path / "c.db.damaged").read_bytes().startswith(b"not a database")


async def test_damage_that_shows_while_it_runs_is_no_failure_either(
    tmp_path: Path, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started(tmp_path / "c.db", until) as tier:
        await put(tier, b"a", until)
        with monkeypatch.context() as broken:
            broken.setattr(SqliteStore, "get", _fail("malformed", sqlite3.SQLITE_CORRUPT))
            assert await tier.get(b"a") is None
        await until(lambda: is_on(tier))
        assert not tier.may_hold(b"a")
    assert (tmp_path / "c.db.damaged").exists()


async def test_a_slow_disk_is_not_waited_for(tmp_path: Path, until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_TIMEOUT", 0.02)
    go_on = threading.Event()
    original = SqliteStore.get
    async with started(tmp_path / "c.db", until) as tier:
        await put(tier, b"a", until)
        monkeypatch.setattr(SqliteStore, "get", lambda self, key: go_on.wait(10) and original(self, key))
        began = time.monotonic()
        assert await tier.get(b"a") is None
        assert time.monotonic() - began < 5
        assert not tier.may_hold(b"a")  # it still owes an answer
        go_on.set()
        await until(lambda: tier.may_hold(b"a"))


async def test_a_second_process_goes_without_the_file_of_the_first(
    tmp_path: Path, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    second = DiskTier(tmp_path / "c.db", max_bytes=2**20)
    async with started(tmp_path / "c.db", until) as first:
        second.start()
        await put(first, b"a", until)
        await second.clear(b"")  # the other's answers are not its own to drop
        assert first.may_hold(b"a")
        await until(lambda: "another process" in caplog.text)
        assert not is_on(second)
    await until(lambda: is_on(second))  # once the first has gone
    assert second.may_hold(b"a")
    await second.close()


async def test_another_programs_database_is_not_touched(
    tmp_path: Path, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    connection = sqlite3.connect(tmp_path / "theirs")
    connection.execute("CREATE TABLE accounts (name)")
    connection.close()
    before = (tmp_path / "theirs").read_bytes()
    tier = DiskTier(tmp_path / "theirs", max_bytes=2**20)
    tier.start()
    await until(lambda: "another program" in caplog.text)
    await tier.clear(b"")
    await tier.close()
    assert (tmp_path / "theirs").read_bytes() == before


def test_the_clock_moves_with_time_and_not_with_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = steady_wall_clock()
    assert abs(clock() - time.time()) < 1
    monkeypatch.setattr(time, "time", lambda: 0.0)
    before = clock()
    assert 0 <= clock() - before < 1


def test_the_url_names_a_whole_path() -> None:
    assert cache_file("sqlite:///var/cache/answers.db") == Path("/var/cache/answers.db")
    for url in ("/var/c.db", "sqlite://c.db", "sqlite:///", "redis://host", "sqlite:///folder/"):
        with pytest.raises(ConfigError, match=r"cache\.url"):
            cache_file(url)


def _fail(message: str, code: int = sqlite3.SQLITE_FULL) -> Callable[..., None]:
    def fail(*_: object) -> None:
        error = sqlite3.OperationalError(message)
        error.sqlite_errorcode = code
        raise error

    return fail
