"""One process of the cluster: started, read, struck, started again."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import psutil

START_TIMEOUT = 120.0  # seconds
STOP_TIMEOUT = 40.0
KEPT = 20_000  # records of a log
#: What says that somebody has noticed.
NOTICED = {"worker_lost", "worker_suspected", "engine_died", "engine_unhealthy", "failover", "retry", "step_split"}
NOTICED |= {"engine_failed", "engine_frozen", "response_cache_off"}


class Process:
    """``shoal ARGUMENTS``, through ``wrapper`` where there is one. Its log outlives its lives."""

    def __init__(
        self, name: str, arguments: Sequence[str], environment: Mapping[str, str], wrapper: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.arguments = list(arguments)
        self.log: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self.plain: deque[str] = deque(maxlen=200)  # lines that are no records
        self.popen: subprocess.Popen[str] | None = None
        self._environment = {**os.environ, **environment}
        self._wrapper = list(wrapper)

    def start(self) -> None:
        command = [*self._wrapper, sys.executable, "-m", "shoal", *self.arguments, "--log-format", "json"]
        self.popen = subprocess.Popen(
            command, env=self._environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        threading.Thread(target=self._read, args=(self.popen,), daemon=True).start()

    def _read(self, popen: subprocess.Popen[str]) -> None:
        assert popen.stderr is not None
        for line in popen.stderr:
            try:
                self.log.append(json.loads(line))
            except ValueError:
                self.plain.append(line)
        popen.stderr.close()

    def wait_for(self, words: str) -> str:
        """The message of the first record that has these words."""
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            for record in list(self.log):
                if words in (message := str(record.get("message", ""))):
                    return message
            if not self.runs:
                break
            time.sleep(0.05)
        raise SystemExit(f"{self.name} does not say '{words}': {''.join(self.plain)}{list(self.log)[-5:]}")

    def noticed(self, since: float) -> tuple[float, str] | None:
        """Wall-clock time and action of the first record since then that says that something is wrong."""
        for record in list(self.log):
            if (action := record.get("action")) in NOTICED:
                at = datetime.fromisoformat(record["time"]).timestamp()
                if at >= since - 0.001:
                    return at, f"{self.name}: {action}"
        return None

    @property
    def runs(self) -> bool:
        return self.popen is not None and self.popen.poll() is None

    @property
    def main(self) -> psutil.Process:
        """Without the wrapper."""
        assert self.popen is not None
        process = psutil.Process(self.popen.pid)
        while self._wrapper and "shoal" not in process.cmdline():
            process = process.children()[0]
        return process

    def family(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return [self.main, *self.main.children(recursive=True)]
        return []

    def engine(self) -> psutil.Process | None:
        """The first engine process below."""
        for child in self.family()[1:]:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if "shoal.worker.engine_host" in child.cmdline():
                    return child
        return None

    def stop(self) -> None:
        if self.popen is None:
            return
        family = self.family()
        self.popen.terminate()
        try:
            self.popen.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        for survivor in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                survivor.resume()
                survivor.kill()
