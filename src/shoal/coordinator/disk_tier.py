"""The response cache's second tier: a SQLite file behind threads of its own, so that the event loop never waits for it.

Writes are kept back a moment and written together; when they come faster than the disk takes them, some are dropped.
A disk that is full, slow or broken makes the cache smaller and never a request fail: the tier is off for a while.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from shoal.aio import Tasks
from shoal.errors import ConfigError
from shoal.kvstore import Found, Key, SqliteStore
from shoal.kvstore.sqlite import Entry, is_damage, remove, set_aside
from shoal.telemetry import TierSize

logger = logging.getLogger(__name__)

GATHER: Final = 0.05  # seconds that writes are kept back to be written together; what a kill may lose
MAX_WAITING: Final = 16 * 2**20  # bytes of writes; beyond, new ones are dropped
BATCH: Final = 2**20  # bytes written together
READ_TIMEOUT: Final = 0.1  # seconds; an answer that is computed is worth more than one that is waited for
MAX_READS: Final = 64  # under way at a time
CLEAR_TIMEOUT: Final = 30.0  # seconds
CLOSE_TIMEOUT: Final = 5.0  # seconds for the last writes
OFF: Final = 60.0  # seconds without the disk after it failed
_ROW: Final = 128  # bytes of a waiting write beside key and value

_FAILURES: Final = (sqlite3.Error, OSError)  # a TimeoutError is an OSError

T = TypeVar("T")


def cache_file(url: str) -> Path:
    """The file of ``sqlite:///FILE``. Raises :class:`ConfigError`."""
    path = url.removeprefix("sqlite://")
    if path == url or not path.startswith("/") or path.endswith("/"):
        raise ConfigError(
            f"cache.url must be sqlite:///FILE with the whole path of a file, not '{url[:200]}'", param="cache.url"
        )
    return Path(path)


def steady_wall_clock() -> Callable[[], float]:
    """Seconds since 1970 as they were at the start, moved on by nothing but the passing of time.

    So a clock that is set while the process lives neither ends entries early nor keeps them. Time that the machine
    sleeps counts, where the system can tell.
    """
    source = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    offset = time.time() - time.clock_gettime(source)
    return lambda: offset + time.clock_gettime(source)


class DiskTier:
    """One file, which belongs to one process at a time. All methods are for the event loop."""

    def __init__(self, path: Path, *, max_bytes: int, clock: Callable[[], float] | None = None) -> None:
        self.dropped = 0  # writes
        self._path = path
        self._max_bytes = max_bytes
        self._clock = clock or steady_wall_clock()
        self._store: SqliteStore | None = None  # None: off
        self._waiting: deque[Entry] = deque()
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self._reads = 0
        self._given_up: Future[Found | None] | None = None
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="response cache reads")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="response cache writes")
        self._tasks = Tasks()
        # For the writing thread.
        self._opened: SqliteStore | None = None
        self._lock: BinaryIO | None = None
        self._is_damaged = False

    def __repr__(self) -> str:
        return f"<DiskTier {self._path}: {'off' if self._store is None else f'{len(self._store)} entries'}>"

    def start(self) -> None:
        self._tasks.start(self._run(), name="write response cache")

    async def close(self) -> None:
        """Write what waits, if the disk takes it in time."""
        await self._tasks.close()
        with suppress(*_FAILURES):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                if self._store is not None:
                    await self._write_all(self._store)
                await asyncio.wrap_future(self._writer.submit(self._shut))
        self._store = None
        self._reader.shutdown(wait=False, cancel_futures=True)
        self._writer.shutdown(wait=False, cancel_futures=True)

    @property
    def size(self) -> TierSize:
        store = self._store
        if store is None:
            return TierSize("disk")
        return TierSize("disk", len(store), store.bytes_used, store.evictions)

    # -- reads

    def may_hold(self, key: Key) -> bool:
        """Is it worth a look? Costs no look at the disk."""
        store = self._store
        if store is None or self._reads >= MAX_READS:
            return False
        if self._given_up is not None and not self._given_up.done():
            return False  # the disk still owes an answer that nobody waits for
        return store.may_hold(key)

    async def get(self, key: Key) -> Found | None:
        """None as well when the disk does not answer in time."""
        store = self._store
        if store is None:
            return None
        reading = self._reader.submit(store.get, key)
        self._reads += 1
        try:
            return await asyncio.wait_for(asyncio.wrap_future(reading), READ_TIMEOUT)
        except TimeoutError:
            self._given_up = reading
            logger.warning("the response cache's disk is slow", extra={"action": "response_cache_slow"})
            return None
        except _FAILURES as error:
            if self._store is store:
                self._failed(error)
            return None
        finally:
            self._reads -= 1

    # -- writes

    def put(self, key: Key, value: bytes, ttl: float | None) -> None:
        """Have it written soon, or not at all."""
        size = len(key) + len(value) + _ROW
        if self._store is None or self._waiting_bytes + size > MAX_WAITING:
            self.dropped += 1
            return
        self._waiting.append(Entry(key, value, ttl))
        self._waiting_bytes += size
        self._wake.set()

    async def clear(self, prefix: bytes) -> None:
        """Drop what begins with ``prefix``, also what waits. When this returns, a restart does not bring it back.

        A file from which it cannot be dropped goes as a whole. Raises :class:`OSError` when not even that can be done
        in time.
        """
        self._keep_waiting([entry for entry in self._waiting if not entry.key.startswith(prefix)])
        clearing = asyncio.wrap_future(self._writer.submit(self._clear, prefix))
        try:
            await asyncio.wait_for(clearing, CLEAR_TIMEOUT)
        except sqlite3.Error as error:  # and the file has gone
            self._failed(error)
        except OSError as error:
            self._failed(error)
            raise

    def _keep_waiting(self, entries: list[Entry]) -> None:
        self._waiting = deque(entries)
        self._waiting_bytes = sum(len(entry.key) + len(entry.value) + _ROW for entry in entries)

    async def _run(self) -> None:
        while True:
            try:
                self._store = await asyncio.wrap_future(self._writer.submit(self._reopen))
                await self._write(self._store)
            except ConfigError as error:
                logger.warning("no response cache on disk: %s", error.message, extra={"action": "response_cache_off"})
                return
            except _FAILURES as error:
                self._failed(error)
            await asyncio.sleep(OFF)

    async def _write(self, store: SqliteStore) -> None:
        """Until the store fails."""
        while self._store is store:
            await self._wake.wait()
            await asyncio.sleep(GATHER)
            self._wake.clear()
            await self._write_all(store)

    async def _write_all(self, store: SqliteStore) -> None:
        while self._waiting and self._store is store:
            await asyncio.wrap_future(self._writer.submit(store.set_many, self._take()))

    def _take(self) -> list[Entry]:
        taken, size = [], 0
        while self._waiting and size < BATCH:
            entry = self._waiting.popleft()
            size += len(entry.key) + len(entry.value) + _ROW
            taken.append(entry)
        self._waiting_bytes -= size
        return taken

    def _failed(self, error: BaseException) -> None:
        """Go on without the disk; :meth:`_run` opens it anew after a while."""
        self._store = None
        self._is_damaged = self._is_damaged or (isinstance(error, sqlite3.Error) and is_damage(error))
        self.dropped += len(self._waiting)
        self._keep_waiting([])
        self._wake.set()
        logger.warning(
            "the response cache goes on without its disk for %g s: %s",
            OFF,
            error,
            extra={"action": "response_cache_off"},
        )

    # -- in the writing thread

    def _reopen(self) -> SqliteStore:
        self._shut()
        return self._open()

    def _open(self) -> SqliteStore:
        if self._opened is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._lock is None:
                self._lock = _hold(self._path.with_name(self._path.name + ".lock"))
            if self._is_damaged:
                self._set_aside()
            try:
                self._opened = self._make()
            except sqlite3.Error as error:
                if not is_damage(error):
                    raise
                self._set_aside()
                self._opened = self._make()
        return self._opened

    def _make(self) -> SqliteStore:
        return SqliteStore(self._path, max_bytes=self._max_bytes, clock=self._clock)

    def _set_aside(self) -> None:
        logger.warning(
            "the response cache %s was damaged; it is at %s now, and an empty one takes its place",
            self._path,
            set_aside(self._path),
            extra={"action": "response_cache_damaged"},
        )
        self._is_damaged = False

    def _clear(self, prefix: bytes) -> None:
        try:
            self._open().clear(prefix)
        except (ConfigError, BlockingIOError):
            return  # the file is not ours: another process clears it, or nobody has to
        except _FAILURES:
            self._shut()
            remove(self._path)
            raise

    def _shut(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _hold(path: Path) -> BinaryIO:
    """Lock a file until it is closed, or the process dies. Raises :class:`BlockingIOError` if another one has it."""
    handle = path.open("ab")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        raise type(error)(error.errno, "another process has this file", str(path)) from None
    return handle
