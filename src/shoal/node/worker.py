"""A worker, built."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

import msgspec

from shoal.cluster import CoreGrant, engine_environment, plan_cores, share_grant
from shoal.config import Config, cache_folder
from shoal.messages import LoadModel
from shoal.model_registry import Engine, ModelSpec, Source
from shoal.node.models import own_parts
from shoal.rpc import TcpNetwork
from shoal.types import ModelPart
from shoal.worker.engine_process import EngineProcess
from shoal.worker.loading import echo_runtime
from shoal.worker.permission import Permission
from shoal.worker.runtime import ModelRuntime
from shoal.worker.worker import Worker


class WorkerNode:
    """``stop_on_eof``: end with standard input, which is a pipe that only the parent holds."""

    def __init__(self, config: Config, *, stop_on_eof: bool = False) -> None:
        runtimes = Runtimes(config, own_parts(config))
        self._worker = Worker(config.worker, runtimes.own(), TcpNetwork(), build=runtimes.build)
        self._drain_timeout = config.worker.drain_timeout
        self._stop_on_eof = stop_on_eof

    async def start(self) -> str:
        return await self._worker.start()

    async def wait_stopped(self) -> None:
        """A worker that a coordinator has drained ends, and one whose parent has died."""
        ends = [asyncio.ensure_future(self._worker.wait_drained())]
        if self._stop_on_eof:
            ends.append(asyncio.ensure_future(_end_of_stdin()))
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()

    async def stop(self) -> None:
        await self._worker.stop(self._drain_timeout)


class Runtimes:
    """A runtime for each model or shard: echo in this process, every real engine in one of its own."""

    def __init__(self, config: Config, parts: Sequence[tuple[ModelSpec, ModelPart]]) -> None:
        self._config = config
        self._parts = parts
        self._permission = Permission(config.worker.allow, [spec for spec, _ in parts])
        cpus = config.worker.cpus or tuple(sorted(os.sched_getaffinity(0)))
        self._grant = plan_cores(cpus, 1)[0]

    def own(self) -> dict[ModelPart, ModelRuntime]:
        """Those of the configuration."""
        grant = share_grant(self._grant, len(self._parts))
        return {part: self._runtime(spec.of_shard(part.shard), grant, part.shard) for spec, part in self._parts}

    def build(self, spec: ModelSpec, shard: int | None) -> ModelRuntime:
        """One more, which shares the cores with those that are there. Raises :class:`Forbidden`."""
        self._permission.check(spec)
        return self._runtime(spec.of_shard(shard), share_grant(self._grant, 2), shard)

    def _runtime(self, spec: ModelSpec, grant: CoreGrant, shard: int | None) -> ModelRuntime:
        is_echo = spec.source is Source.BUILT_IN and spec.target == Engine.ECHO
        if is_echo and not spec.settings.preproc and not spec.settings.postproc:
            return echo_runtime(spec, shard)
        command = LoadModel(
            name=spec.name,
            version=spec.version,
            settings=msgspec.to_builtins(spec.settings),
            cache_dir=str(cache_folder(self._config)),
            threads=grant.threads,
            kv_tokens=self._config.engine.kv_tokens,
            max_sequences=self._config.engine.max_sequences,
            step_processes=self._config.preproc.processes,
            telemetry=msgspec.to_builtins(self._config.telemetry),
            shard=shard,
        )
        return EngineProcess(command, spec.kind, cpus=self._config.worker.cpus, environment=engine_environment(grant))


async def _end_of_stdin() -> None:
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    try:
        while await reader.read(1024):
            pass
    finally:
        transport.close()
