"""Records in one SQLite file, which one process at a time owns."""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from shoal.errors import ConfigError, ShoalError

SCHEME: Final = "embedded://"
FORMAT: Final = 1  # of the file
LAYOUT: Final = "CREATE TABLE IF NOT EXISTS records (key TEXT NOT NULL UNIQUE, value BLOB NOT NULL)"


class EmbeddedStore:
    """Each save is one transaction, on disk before it returns. Raises :class:`ConfigError` when the file is owned by
    another process, damaged, of a later format, or cannot be opened."""

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            # A file of its own: SQLite's locks are let go between transactions. It stays, as to remove it would let
            # two processes lock two files of one name.
            self._lock = file.with_name(f"{file.name}.lock").open("ab")
        except OSError as error:
            raise ConfigError(
                f"cannot open the registry {file}: {error.strerror or error}", param="registry"
            ) from error
        try:
            self._take_lock()
            self._database = self._open()
        except BaseException:
            self._lock.close()
            raise

    def load(self) -> Mapping[str, bytes]:
        return dict(self._database.execute("SELECT key, value FROM records ORDER BY rowid"))

    def save(self, changes: Mapping[str, bytes | None]) -> None:
        written = [(key, value) for key, value in changes.items() if value is not None]
        deleted = [(key,) for key, value in changes.items() if value is None]
        upsert = "INSERT INTO records VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
        try:
            with self._database:
                self._database.executemany(upsert, written)
                self._database.executemany("DELETE FROM records WHERE key = ?", deleted)
        except sqlite3.Error as error:
            raise ShoalError(f"the registry {self._file} could not be written, nothing has changed: {error}") from error

    def close(self) -> None:
        self._database.close()
        self._lock.close()

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another coordinator owns the registry {self._file}; stop it, or give this one a file of its own",
                param="registry",
            ) from None

    def _open(self) -> sqlite3.Connection:
        try:
            database = sqlite3.connect(self._file)
        except sqlite3.Error as error:
            raise self._damaged(str(error)) from error
        try:
            self._check(database)
            database.execute("PRAGMA synchronous = FULL")
            with database:
                database.execute(LAYOUT)
                database.execute(f"PRAGMA user_version = {FORMAT}")
        except sqlite3.Error as error:
            database.close()
            raise self._damaged(str(error)) from error
        except ConfigError:
            database.close()
            raise
        return database

    def _check(self, database: sqlite3.Connection) -> None:
        (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise self._damaged(found)
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version > FORMAT:
            raise ConfigError(
                f"the registry {self._file} is of format {version}; this version of Shoal reads up to {FORMAT}",
                param="registry",
            )

    def _damaged(self, reason: str) -> ConfigError:
        return ConfigError(
            f"the registry {self._file} cannot be read ({reason}); put a copy of the file back, or move it away to "
            "begin again with the models of the configuration",
            param="registry",
        )


def open_store(url: str) -> EmbeddedStore:
    """``embedded:///FILE``. Raises :class:`ConfigError`."""
    path = url.removeprefix(SCHEME)
    if path == url or not path.startswith("/") or path == "/":
        raise ConfigError(
            f"registry.url must be embedded:///FILE with the whole path of a file, not '{url[:200]}'", param="registry"
        )
    return EmbeddedStore(Path(path))
