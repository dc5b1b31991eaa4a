"""The response cache in one SQLite file: it outlives the process, and a kill in the middle of a write.

Write-ahead log with ``synchronous=NORMAL``: a process that is killed loses what it had not committed, a machine that
loses its power perhaps the last seconds, and neither leaves a file that is half of this and half of that. Rows are
found by a hash and compared by their whole key; of two keys with one hash the later one stays. SQLite does not
check its pages, so each row carries a checksum.

Times are seconds since 1970, for an entry has to outlive the machine's other clocks. A row is served from when it was
stored until it expires: one that a clock running ahead has stored is not there until that time has come.
"""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Final, NamedTuple

from shoal.errors import ConfigError
from shoal.kvstore.store import Found, Key, check_ttl

SCHEMA_VERSION: Final = 1
APPLICATION_ID: Final = 0x73_68_6F_6C  # "shol": tells our files from other SQLite databases
MAX_ENTRIES: Final = 500_000  # the hashes of all are kept in memory, some 70 bytes each
LARGEST: Final = 1 / 8  # of the store, that one entry may take
_LOG_SHARE: Final = 1 / 4  # of the bytes on disk for the write-ahead log, and as much to overshoot with one write
_LOG_BYTES: Final = 16 * 2**20  # of each at most
_PAGE: Final = 4096  # bytes
_ROW: Final = 64  # bytes of a row beside key and value
_EVICTED_AT_ONCE: Final = 1 / 32  # of the entries
_USES_KEPT: Final = 4096  # that no write has noted yet
_BUSY_TIMEOUT: Final = 2.0  # seconds

_SCHEMA: Final = """
CREATE TABLE entries (
    digest INTEGER PRIMARY KEY,
    key BLOB NOT NULL,
    value BLOB NOT NULL,
    checksum INTEGER NOT NULL,
    stored REAL NOT NULL,
    expires REAL,
    used INTEGER NOT NULL
);
CREATE INDEX by_use ON entries (used);
"""


class Entry(NamedTuple):
    key: Key
    value: bytes
    ttl: float | None = None  # seconds


class SqliteStore:
    """Bounded in bytes on disk; what was not used for longest makes room, roughly: uses are noted with later writes.

    One thread may call :meth:`get`, :meth:`exists` and :meth:`may_hold` while another calls the rest. ``clock``
    returns seconds since 1970. Methods raise :class:`sqlite3.Error`; after one, the store is to be opened anew.
    """

    def __init__(self, path: Path, *, max_bytes: int, clock: Callable[[], float]) -> None:
        """Raises :class:`ConfigError` when ``path`` is another program's database."""
        self.evictions = 0
        self.damaged = 0  # entries whose checksum was wrong
        self.bytes_used = 0  # on disk, without the log and without pages that are free to be used again
        self._clock = clock
        log = min(_LOG_BYTES, round(max_bytes * _LOG_SHARE))
        self._max_pages = (max_bytes - 2 * log) // _PAGE
        self._largest = round(self._max_pages * _PAGE * LARGEST)
        self._at_once = (
            log // 4
        )  # bytes of a transaction; on pages that are half full it takes twice as much of the log
        self._uses: deque[int] = deque(maxlen=_USES_KEPT)  # hashes, by the reading thread
        self._broken: deque[int] = deque(maxlen=_USES_KEPT)
        self._write = _connect(path)
        try:
            _prepare(self._write, path)
            self._write.execute(f"PRAGMA wal_autocheckpoint={max(1, log // 2 // _PAGE)}")
            self._write.execute(f"PRAGMA journal_size_limit={log}")
            self._write.execute("DELETE FROM entries WHERE expires <= ?", (clock(),))
            (self._use,) = self._write.execute("SELECT coalesce(max(used), 0) FROM entries").fetchone()
            self._digests = {digest for (digest,) in self._write.execute("SELECT digest FROM entries")}
            self._pages()
            self._read = _connect(path)
        except BaseException:
            self._write.close()
            raise

    def __len__(self) -> int:
        """Entries held, expired ones that nobody has noticed included."""
        return len(self._digests)

    # -- the reading thread

    def may_hold(self, key: Key) -> bool:
        """Says no without a look at the disk. A yes may be wrong."""
        return _digest(key) in self._digests

    def get(self, key: Key) -> Found | None:
        digest = _digest(key)
        row = self._live(self._read, digest, key)
        if row is None:
            return None
        value, checksum, left = row
        if zlib.crc32(value) != checksum:
            self.damaged += 1
            self._broken.append(digest)
            return None
        self._uses.append(digest)
        return Found(value, left)

    def exists(self, key: Key) -> bool:
        return self._live(self._read, _digest(key), key) is not None

    def _live(self, connection: sqlite3.Connection, digest: int, key: Key) -> tuple[bytes, int, float | None] | None:
        """Value, checksum and the seconds left."""
        found = connection.execute(
            "SELECT key, value, checksum, stored, expires FROM entries WHERE digest = ?", (digest,)
        ).fetchone()
        if found is None:
            return None
        held, value, checksum, stored, expires = found
        now = self._clock()
        if held != key or now < stored or (expires is not None and now >= expires):
            return None
        return value, checksum, None if expires is None else expires - now

    # -- the writing thread

    def set(self, key: Key, value: bytes, *, ttl: float | None = None) -> bool:
        return self.set_many([Entry(key, value, ttl)]) == 1

    def set_many(self, entries: Iterable[Entry]) -> int:
        """In few transactions. Returns how many were not too large."""
        waiting = deque(entries)
        kept = 0
        while waiting:
            with self._transaction():
                self._note_uses()
                kept += self._insert_some(waiting)
            self._make_room()
        return kept

    def delete(self, key: Key) -> bool:
        there = self._live(self._write, _digest(key), key) is not None
        with self._transaction():
            self._delete(key)
        return there

    def clear(self, prefix: bytes = b"") -> int:
        with self._transaction():
            # SQLite has no part of an empty blob, not even an empty one.
            dropped = self._drop("substr(key, 1, ?) = ?", len(prefix), prefix) if prefix else self._drop("TRUE")
        self._pages()
        return dropped

    def close(self) -> None:
        self._read.close()
        self._write.close()

    def check_integrity(self) -> None:
        """What always holds; for tests."""
        assert self._write.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert self._digests == {digest for (digest,) in self._write.execute("SELECT digest FROM entries")}
        assert self._pages() <= self._max_pages

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._write.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._write.execute("COMMIT")
        except BaseException:
            if self._write.in_transaction:  # a full disk may have ended it already
                self._write.execute("ROLLBACK")
            raise

    def _insert_some(self, waiting: deque[Entry]) -> int:
        """As many of them as one transaction may write; returns how many of these were not too large."""
        kept = written = 0
        while waiting and written < self._at_once:
            key, value, ttl = waiting.popleft()
            check_ttl(ttl)
            size = len(key) + len(value) + _ROW
            if size > self._largest:
                self._delete(key)
            else:
                self._insert(key, value, ttl)
                kept, written = kept + 1, written + size
        return kept

    def _insert(self, key: Key, value: bytes, ttl: float | None) -> None:
        digest, now = _digest(key), self._clock()
        self._use += 1
        row = (digest, key, value, zlib.crc32(value), now, None if ttl is None else now + ttl, self._use)
        self._write.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        self._digests.add(digest)

    def _delete(self, key: Key) -> None:
        self._drop("digest = ? AND key = ?", _digest(key), key)

    def _note_uses(self) -> None:
        while self._broken:
            self._drop("digest = ?", self._broken.popleft())
        while self._uses:
            self._use += 1
            self._write.execute("UPDATE entries SET used = ? WHERE digest = ?", (self._use, self._uses.popleft()))

    def _make_room(self) -> None:
        while self._digests and (self._pages() > self._max_pages or len(self._digests) > MAX_ENTRIES):
            count = max(1, round(len(self._digests) * _EVICTED_AT_ONCE))
            with self._transaction():
                self.evictions += self._drop("digest IN (SELECT digest FROM entries ORDER BY used LIMIT ?)", count)

    def _drop(self, condition: str, *values: int | bytes) -> int:
        gone = self._write.execute(f"DELETE FROM entries WHERE {condition} RETURNING digest", values).fetchall()
        self._digests.difference_update(digest for (digest,) in gone)
        return len(gone)

    def _pages(self) -> int:
        (count,) = self._write.execute("PRAGMA page_count").fetchone()
        (free,) = self._write.execute("PRAGMA freelist_count").fetchone()
        self.bytes_used = (count - free) * _PAGE
        return int(count - free)


def is_damage(error: sqlite3.Error) -> bool:
    """Is the file itself broken, so that trying again cannot help?"""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def set_aside(path: Path) -> Path:
    """Move a damaged file out of the way, over an earlier one. Returns where it is now. Raises :class:`OSError`."""
    aside = path.with_name(path.name + ".damaged")
    path.replace(aside)
    _remove_log(path)
    return aside


def remove(path: Path) -> None:
    """Raises :class:`OSError`."""
    path.unlink(missing_ok=True)
    _remove_log(path)


def _remove_log(path: Path) -> None:
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _digest(key: Key) -> int:
    """64 bits with a sign, which is what SQLite's row numbers are."""
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little", signed=True)


def _connect(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # answers are the users'; the log inherits the mode
    return sqlite3.connect(path, timeout=_BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the table, in place of one of another version. Raises :class:`ConfigError` for a file that is not ours,
    which then is as it was."""
    (owner,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone() != (0,)
    if tables and owner != APPLICATION_ID:
        raise ConfigError(f"{path} is another program's database", param="cache.url")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    if tables and version == SCHEMA_VERSION:
        return
    connection.executescript(
        f"""
        BEGIN IMMEDIATE;
        DROP TABLE IF EXISTS entries;
        {_SCHEMA}
        PRAGMA application_id={APPLICATION_ID};
        PRAGMA user_version={SCHEMA_VERSION};
        COMMIT;
        """
    )
