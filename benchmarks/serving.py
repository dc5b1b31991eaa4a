"""Servers as children of a benchmark: started, waited for, and ended with every process that they started."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

READY_WITHIN = 120.0  # seconds: a model may have to be loaded
END_WITHIN = 15.0  # seconds that a server has to end by itself


class NotServing(Exception):
    """A server that did not start, or ended before its time."""


@dataclass(frozen=True)
class Family:
    """A process and all that it started."""

    leader: subprocess.Popen[bytes]
    log: Path | None

    def members(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            leader = psutil.Process(self.leader.pid)
            return [leader, *leader.children(recursive=True)]
        return []

    def cpu_seconds(self) -> float:
        """Of those that live."""
        total = 0.0
        for member in self.members():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = member.cpu_times()
                total += times.user + times.system
        return total

    def memory_bytes(self) -> int:
        """Resident; what processes share counts for each."""
        total = 0
        for member in self.members():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += member.memory_info().rss
        return total

    def wait(self, good: Callable[[], bool], seconds: float = READY_WITHIN) -> None:
        """Until it is ``good``. Raises :class:`NotServing` with the end of the log."""
        deadline = time.monotonic() + seconds
        while not good():
            if self.leader.poll() is not None:
                raise NotServing(f"ended with {self.leader.returncode}{self._said()}")
            if time.monotonic() > deadline:
                raise NotServing(f"not ready within {seconds:.0f} s{self._said()}")
            time.sleep(0.05)

    def _said(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log else []
        return "".join(f"\n    {line[:200]}" for line in lines[-8:])

    def end(self) -> None:
        """Ask the leader; after a while kill whoever is left."""
        members = self.members()
        self.leader.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.leader.wait(END_WITHIN)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.leader.pid, signal.SIGKILL)
        for member in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        self.leader.wait()


@contextlib.contextmanager
def running(
    command: Sequence[str],
    *,
    variables: Mapping[str, str] | None = None,
    folder: Path | None = None,
    log: Path | None = None,
) -> Iterator[Family]:
    """In ``folder``, or in this process's; what it writes goes to the file ``log``, or nowhere."""
    with open(log or os.devnull, "wb") as output:
        leader = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **(variables or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its group can be ended as one
        )
        family = Family(leader, log)
        try:
            yield family
        finally:
            family.end()


@contextlib.contextmanager
def shoal(*arguments: str) -> Iterator[str]:
    """``shoal serve ARGUMENTS`` until the block ends; the address HOST:PORT of a server whose models are ready."""
    port = free_port()
    command = [sys.executable, "-m", "shoal", "serve", *arguments, "--listen-port", str(port)]
    with running(command) as family:
        family.wait(lambda: answers(f"http://127.0.0.1:{port}/health/ready"))
        yield f"127.0.0.1:{port}"


def answers(url: str) -> bool:
    """With a status below 400."""
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True


def free_port(neighbours: int = 4) -> int:
    """With ``neighbours`` free ones above it, all outside the range that systems take client ports from."""
    while True:
        port = random.randrange(20_000, 32_000)
        if all(map(_free, range(port, port + neighbours + 1))):
            return port


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
