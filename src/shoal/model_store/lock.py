"""One process at a time works on a model's folder."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

from shoal.errors import ModelLoadFailed

POLL = 0.1  # seconds: flock has no deadline of its own


@contextlib.contextmanager
def exclusive(path: Path, timeout: float) -> Iterator[None]:
    """Hold the lock file ``path``. The system lets go of it when the process dies.

    The file stays: to remove it would let two processes lock two files of one name. Raises
    :class:`~shoal.errors.ModelLoadFailed` when another process has held it for ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    with path.open("ab") as handle:
        while not _try_lock(handle.fileno()):
            if time.monotonic() >= deadline:
                raise ModelLoadFailed(f"another process has held {path} for {timeout:g} seconds")
            time.sleep(POLL)
        yield  # closing the file unlocks


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
