"""A coordinator and its workers on one machine, with one command."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

from shoal.aio import Tasks
from shoal.cluster import CoreGrant, plan_cores
from shoal.config import Config
from shoal.launchers.local import ChildProcess, keep_running
from shoal.node.coordinator import CoordinatorNode
from shoal.node.models import dealt_replicas


class ServeNode:
    """The coordinator in this process, the workers as children, each on cores of its own.

    ``file``: the configuration file, which the workers read too.
    """

    def __init__(self, config: Config, file: Path | None) -> None:
        self._config = config
        self._file = file
        self._coordinator = CoordinatorNode(config)
        self._replicas = dealt_replicas(config)  # of each worker
        self._workers = Tasks()

    async def start(self) -> str:
        address = await self._coordinator.start()
        grants = plan_cores(sorted(os.sched_getaffinity(0)), self._config.serve.workers)
        for index, grant in enumerate(grants, start=1):
            self._workers.start(self._keep_worker(index, grant, address), name=f"worker {index}")
        return address

    async def wait_stopped(self) -> None:
        await self._coordinator.wait_stopped()

    async def stop(self) -> None:
        """The workers last: what still runs needs them."""
        await self._coordinator.stop()
        await self._workers.close()

    async def _keep_worker(self, index: int, grant: CoreGrant, coordinator: str) -> None:
        start = functools.partial(
            ChildProcess.start, f"worker {index}", self._command(index, grant, coordinator), cpus=grant.cpus
        )
        await keep_running(f"worker {index}", start, stop_timeout=self._config.worker.drain_timeout)

    def _command(self, index: int, grant: CoreGrant, coordinator: str) -> list[str]:
        host, _, port = coordinator.rpartition(":")
        own_port = int(port) + index if self._config.coordinator.port else 0
        command = [sys.executable, "-m", "shoal", "worker", "--stop-on-eof"]
        command += ["--host", host, "--port", str(own_port), "--coordinator", coordinator]
        command += ["--cpus", ",".join(map(str, grant.cpus))]
        command += ["--preproc-processes", str(self._config.preproc.processes)]
        command += ["--log-level", self._config.log.level, "--log-format", self._config.log.format]
        if self._file is not None:
            command += ["--config", str(self._file)]
        for model in self._config.worker.models:
            command += ["--model", model]
        for replica in self._replicas[index - 1]:
            command += ["--replica", replica]
        return command
