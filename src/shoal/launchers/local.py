"""Child processes on this machine: started with their cores, watched, stopped with a deadline, never orphaned.

A child lives in a session of its own, so that a Ctrl-C in the terminal reaches only the parent, which stops its
children in order. A child whose parent dies notices it by the end of a pipe or socket that only the parent held. One
that runs foreign code may not come to look: it is ended by the system.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import ClassVar, Final

logger = logging.getLogger(__name__)

KILL_AFTER = 5.0  # seconds between asking a child to stop and killing it, unless the caller says otherwise
STABLE_AFTER = 60.0  # seconds a child must have lived for its next crash to count as the first
MAX_CRASHES = 5  # in a row
TAIL_LINES = 20  # of its standard error, kept to say why a child died
_MAX_LINE = 4096  # bytes of one line kept
_PR_SET_PDEATHSIG: Final = 1


def end_with_parent() -> None:
    """Have the system kill this process when its parent ends, even while it is stopped or in a native call. Where the
    system is not Linux it has to notice by itself."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class ChildProcess:
    """One running child. What it writes to its standard error is passed on, and the end of it is kept.

    ``logs``: its lines are records of a log already, to be passed on as they are; if not, they become some of ours.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process, *, logs: bool = True) -> None:
        self.name = name
        self._process = process
        self._logs = logs
        self._tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
        self._reader = asyncio.get_running_loop().create_task(self._pass_on_stderr(), name=f"stderr of {name}")

    @classmethod
    async def start(
        cls,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        cpus: Sequence[int] = (),
        pass_fds: Sequence[int] = (),
        logs: bool = True,
    ) -> ChildProcess:
        """``environment`` is added to the parent's; ``cpus`` are the cores the child and its threads stay on."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_MAX_LINE,
            env={**os.environ, **(environment or {})},
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )
        if cpus and hasattr(os, "sched_setaffinity"):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(process.pid, cpus)
        return cls(name, process, logs=logs)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    async def wait(self) -> str:
        """Wait for the end and say, in words, how it came."""
        code = await self._process.wait()
        with contextlib.suppress(TimeoutError):
            # A grandchild may hold the pipe open; what was written so far is enough.
            await asyncio.wait_for(asyncio.shield(self._reader), 1.0)
        return describe_exit(code, self._tail)

    def kill(self) -> None:
        """At once, and without asking."""
        self._signal(signal.SIGKILL)

    async def stop(self, timeout: float = KILL_AFTER) -> None:
        """SIGTERM, then SIGKILL once ``timeout`` seconds have passed. Returns when the child is gone."""
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), timeout)
        except TimeoutError:
            logger.warning(
                "%s did not stop within %.0f s: killed", self.name, timeout, extra={"action": "child_killed"}
            )
        finally:
            # Also when this wait is cancelled: nobody else would end the child.
            self.kill()
        await self._process.wait()
        self._reader.cancel()

    def _signal(self, number: signal.Signals) -> None:
        # Not by the process's own methods: they look first whether it has ended, and so take the exit code from
        # the watcher of the event loop.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def _pass_on_stderr(self) -> None:
        stream = self._process.stderr
        assert stream is not None
        while True:
            try:
                line = await stream.readline()
            except ValueError:  # longer than the limit: the stream has dropped it
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            self._tail.append(text)
            if self._logs:
                sys.stderr.buffer.write(line)
                sys.stderr.buffer.flush()
            elif text:
                logger.warning("%s: %s", self.name, text, extra={"action": "child_wrote", "child": self.name})


def describe_exit(code: int, tail: Sequence[str]) -> str:
    """``killed by SIGSEGV`` or ``exited with code 1: last line it wrote``."""
    if code < 0:
        try:
            how = f"killed by {signal.Signals(-code).name}"
        except ValueError:
            how = f"killed by signal {-code}"
    else:
        how = f"exited with code {code}"
    if code == 0:
        return how  # what it wrote last is no reason
    last = next((line for line in reversed(tail) if line.strip()), "")
    return f"{how}: {last}" if last else how


class RestartPolicy:
    """When to start a child again after it ended: after 0.5, 1, 2 … 30 s, and not at all in a crash loop."""

    PAUSE: ClassVar[float] = 0.5  # seconds, after the first end

    def __init__(self) -> None:
        self.crashes = 0  # in a row
        self._short_lives = 0  # in a row, however they ended

    def delay(self, lived: float, *, crashed: bool = True) -> float | None:
        """Seconds to wait after a life of ``lived`` seconds; None: it has died too often, leave it.

        An end in order, which somebody asked for, is no crash.
        """
        if lived > STABLE_AFTER:
            self.crashes = self._short_lives = 0
        self.crashes += crashed
        self._short_lives += 1
        return None if self.crashes >= MAX_CRASHES else min(30.0, self.PAUSE * 2.0 ** min(self._short_lives - 1, 6))


async def keep_running(name: str, start: Callable[[], Awaitable[ChildProcess]], *, stop_timeout: float) -> str:
    """Start a child and start it again whenever it ends; returns why it died when it has done so too often.

    Cancelling this stops the child, which has ``stop_timeout`` seconds to finish what it does.
    """
    policy = RestartPolicy()
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        process = await start()
        try:
            reason = await process.wait()
        finally:
            await process.stop(stop_timeout)
        pause = policy.delay(loop.time() - began, crashed=process.returncode != 0)
        extra = {"action": "child_died", "child": name, "crashes": policy.crashes}
        if pause is None:
            logger.error("%s died %d times in a row, last: %s", name, policy.crashes, reason, extra=extra)
            return reason
        level = logging.ERROR if process.returncode else logging.INFO
        logger.log(level, "%s %s; starting it again in %.1f s", name, reason, pause, extra=extra)
        await asyncio.sleep(pause)
