"""Shoal's own commands as child processes of a test, on ports of their own, ended whatever happens."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

START_TIMEOUT = 120.0  # seconds: loading models on a busy machine
STOP_TIMEOUT = 40.0


@dataclass
class Command:
    """A running ``shoal`` command. ``log`` is what it has written so far."""

    process: subprocess.Popen[str]
    log: list[str] = field(default_factory=list)

    def wait_for(self, pattern: str, times: int = 1) -> re.Match[str]:
        """The line of the log that matches as the first, or as number ``times``."""
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            found = [match for line in list(self.log) if (match := re.search(pattern, line))]
            if len(found) >= times:
                return found[times - 1]
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"no {pattern!r} in the log:\n{''.join(self.log)}")
            time.sleep(0.02)

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def interrupt(self) -> int:
        """Ctrl-C; returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(STOP_TIMEOUT)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)


@contextmanager
def shoal(*arguments: str, environment: dict[str, str] | None = None) -> Iterator[Command]:
    """Run ``shoal ARGUMENTS``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "shoal", *arguments],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    command = Command(process)
    reader = threading.Thread(target=command._read, daemon=True)
    reader.start()
    family: list[psutil.Process] = []
    try:
        yield command
    finally:
        if process.poll() is None:
            family = command.descendants()
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for survivor in family:
            if survivor.is_running():
                survivor.kill()
        reader.join(timeout=5)
        assert process.stderr is not None
        process.stderr.close()


def until_ready(url: str, command: Command) -> None:
    """Wait until every model is ready on at least one worker."""
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            with urllib.request.urlopen(f"{url}/health/ready", timeout=5):
                return
        except (urllib.error.URLError, OSError) as error:
            if command.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{url} is not ready: {error}\n{''.join(command.log)}") from error
            time.sleep(0.05)


def gone(processes: Sequence[psutil.Process], timeout: float = 10.0) -> bool:
    """Have all of them ended? Waits for it."""
    _, alive = psutil.wait_procs(processes, timeout=timeout)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive)
