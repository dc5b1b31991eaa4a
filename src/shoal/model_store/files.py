"""Files that are either whole and as expected, or not there."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from shoal.errors import ModelLoadFailed
from shoal.model_store.catalog import ModelFile

CHUNK = 1 << 20  # bytes


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises :class:`OSError`."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_intact(path: Path, size: int, sha256: str) -> bool:
    """Is the file there, with these very bytes? The size is looked at first: it costs nothing."""
    try:
        return path.stat().st_size == size and digest(path) == sha256
    except OSError:
        return False


def write_verified(source: IO[bytes], expected: ModelFile, target: Path, told: Callable[[int], None]) -> None:
    """Copy a stream to ``target``, which appears only when every byte is as expected.

    ``told`` is called with the bytes copied so far. Raises :class:`~shoal.errors.ModelLoadFailed` when the content
    differs, :class:`OSError` when it cannot be written.
    """
    partial = target.with_name(target.name + ".partial")
    try:
        with partial.open("wb") as sink:
            _copy_checked(source, expected, sink, told)
            sink.flush()
            os.fsync(sink.fileno())
        partial.replace(target)
        sync(target.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def _copy_checked(source: IO[bytes], expected: ModelFile, sink: IO[bytes], told: Callable[[int], None]) -> None:
    hashed = hashlib.sha256()
    done = 0
    # One byte more than expected shows that a file is too long, without copying whatever it is.
    while block := source.read(min(CHUNK, expected.size + 1 - done)):
        hashed.update(block)
        sink.write(block)
        done += len(block)
        told(done)
    if done != expected.size:
        got = f"more than {expected.size}" if done > expected.size else str(done)
        raise ModelLoadFailed(f"{expected.name} is damaged: expected {expected.size} bytes, got {got}")
    if hashed.hexdigest() != expected.sha256:
        raise ModelLoadFailed(
            f"{expected.name} is damaged: expected SHA-256 {expected.sha256}, got {hashed.hexdigest()}"
        )


def sync(path: Path) -> None:
    """Have the system write a file, or the entries of a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
