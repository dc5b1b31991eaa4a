"""What one coordinator carries: `python benchmarks/scale.py [--workers 1000] [--models 10000] [--connections 10000]
[--streams 2000] [--requests 100000]`.

A real coordinator over real sockets; its workers are many in one process, with models that cost nothing. Printed is
what a worker, a model, an idle connection and an open stream cost in memory, and what a request costs in processor time
before and after each of them came.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import psutil
import uvloop

from shoal.bench.http import HttpConnection
from shoal.config import WorkerConfig
from shoal.messages import Chunk, Generate, Infer, Inferred, Load, MetricFamily, ModelInfo
from shoal.rpc import TcpNetwork
from shoal.types import (
    FIRST_VERSION,
    FinishReason,
    ModelId,
    ModelKind,
    ModelName,
    ModelPart,
    ModelState,
    TensorSpec,
    Usage,
    WorkerId,
)
from shoal.worker.runtime import Send
from shoal.worker.worker import Worker

ROOT = Path(__file__).parent.parent
PORT = 9970
CLIENTS = 32
MEASURED = 4000  # requests of one measurement
TOKENS = 40  # of one stream
SETTLE = 5.0  # seconds until what has left is forgotten
PACE = 0.5  # seconds between two tokens of one stream
CAPACITY = 4096  # of one worker: the first two hold every stream
SETTINGS = {"SHOAL_LOG_LEVEL": "error", "SHOAL_COORDINATOR_MAX_IN_FLIGHT": "4096"}
TENSOR = msgspec.json.encode({"inputs": [{"name": "input", "shape": [1, 1], "datatype": "FP32", "data": [1.0]}]})
CHAT = msgspec.json.encode({"model": "stream", "prompt": "count", "max_tokens": TOKENS, "stream": True})


# -- the herd: workers without engines, all in one process


class Counting:
    """A model that answers at once, or with a number every :data:`PACE` seconds."""

    def __init__(self, name: str, kind: ModelKind) -> None:
        tensors = (TensorSpec("input", "FP32", (-1, 1)),) if kind is ModelKind.TENSOR else ()
        self.info = ModelInfo(ModelName(name), kind, ModelState.READY, inputs=tensors, outputs=tensors)

    def load(self) -> Load:
        return Load()

    def metrics(self) -> Iterable[MetricFamily]:
        return ()

    def start(self, changed: Callable[[], None]) -> None:
        changed()

    def infer_now(self, request: Infer) -> Inferred:
        return Inferred(request.inputs)

    async def infer(self, request: Infer, send: Send, *, deadline: float | None) -> None:
        await send(self.infer_now(request))

    async def generate(self, request: Generate, *, deadline: float | None) -> AsyncGenerator[Chunk, None]:
        total = request.sampling.max_tokens or 1
        for token in range(len(request.output), total):
            await asyncio.sleep(PACE)
            last = token == total - 1
            yield Chunk(
                f"{token} ",
                (token,),
                finish_reason=FinishReason.LENGTH if last else None,
                usage=Usage(1, total) if last else None,
            )

    async def close(self) -> None:
        return None


async def herd(first: int, count: int, models_each: int) -> None:
    """Workers from number ``first`` on; each says ``started`` on a line of its own."""
    for number in range(first, first + count):
        models = [Counting("same", ModelKind.TENSOR), Counting("stream", ModelKind.GENERATE)]
        models += [Counting(f"model-{number}-{index}", ModelKind.TENSOR) for index in range(models_each)]
        config = WorkerConfig(port=0, coordinators=(f"127.0.0.1:{PORT}",), capacity=CAPACITY)
        runtimes = {ModelPart(ModelId(model.info.name, FIRST_VERSION)): model for model in models}
        await Worker(config, runtimes, TcpNetwork(), worker_id=WorkerId(f"worker-{number}")).start()
    await asyncio.Event().wait()


# -- the coordinator, as seen from outside


@dataclass(frozen=True)
class Server:
    process: psutil.Process

    def memory(self) -> int:
        """Resident bytes."""
        return int(self.process.memory_info().rss)

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    async def idle_share(self) -> float:
        """Of one core, while nobody asks anything."""
        before, began = self.cpu(), time.monotonic()
        await asyncio.sleep(3.0)
        return (self.cpu() - before) / (time.monotonic() - began)


@contextmanager
def started(*command: str) -> Iterator[psutil.Process]:
    process = subprocess.Popen([sys.executable, *command], env={**os.environ, **SETTINGS})
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)


def herd_command(first: int, count: int, models_each: int) -> list[str]:
    return [__file__, "--herd", str(first), str(count), str(models_each)]


async def get(path: str) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]), body


async def wait_for_workers(count: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            _, body = await get("/admin/workers")
            workers = msgspec.json.decode(body)["workers"]
        except OSError:
            workers = []
        if sum(worker["state"] == "ready" for worker in workers) >= count:
            return
        await asyncio.sleep(0.3)
    raise TimeoutError(f"{count} workers were not ready within 120 s")


async def ask(total: int) -> None:
    """So many tensor requests from :data:`CLIENTS` connections; each answer is checked."""
    left = total

    async def client() -> None:
        nonlocal left
        connection = HttpConnection(urlsplit(f"http://127.0.0.1:{PORT}"))
        while left > 0:
            left -= 1
            status = await connection.post("/v2/models/same/infer", TENSOR, 60)
            if status != 200 or b'"data":[1.0]' not in connection.body:
                raise AssertionError(f"{status}: {bytes(connection.body)!r}")
        connection.close()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))


async def cost(server: Server, requests: int = MEASURED) -> float:
    """Microseconds of the coordinator's processor time for one request, above what it spends anyway."""
    await ask(requests // 4)
    idle = await server.idle_share()
    before, began = server.cpu(), time.monotonic()
    await ask(requests)
    spent = server.cpu() - before - idle * (time.monotonic() - began)
    return spent / requests * 1e6


class Report:
    def __init__(self, server: Server) -> None:
        self._server = server
        self._first = 0.0
        self._memory = server.memory()

    def grown(self) -> int:
        """Bytes of memory since the last line."""
        return self._server.memory() - self._memory

    async def line(self, what: str, count: int = 0) -> None:
        """What a request costs now, and what each of the ``count`` that came since the last line takes in memory."""
        each = f", {self.grown() / count / 1024:.1f} KiB each" if count else ""
        self._memory = self._server.memory()
        idle = await self._server.idle_share()
        spent = await cost(self._server)
        self._first = self._first or spent
        print(
            f"{what:<34} {self._memory / 2**20:6.0f} MiB{each:<18} idle {idle:5.1%} of a core,"
            f" {spent:5.0f} µs a request, {spent / self._first:.2f} of the first",
            flush=True,
        )
        self._memory = self._server.memory()


async def connections(count: int) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """So many that have asked once and are kept."""
    kept = []
    for _ in range(count):
        reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
        writer.write(b"GET /health/live HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        kept.append((reader, writer))
    return kept


async def stream() -> float:
    """One stream, token by token. Returns the longest wait for a part of it, in seconds."""
    connection = HttpConnection(urlsplit(f"http://127.0.0.1:{PORT}"))
    began = asyncio.get_running_loop().time()
    status = await connection.post("/v1/completions", CHAT, 300)
    text = ""
    for event in bytes(connection.body).split(b"\n\n"):
        if event.startswith(b"data: {"):
            text += "".join(choice["text"] for choice in msgspec.json.decode(event[6:])["choices"])
    connection.close()
    if status != 200 or text.split() != [str(token) for token in range(TOKENS)]:
        raise AssertionError(f"{status}: a stream came as {text!r}")
    times = [began, *(at for at, _ in connection.parts)]
    return max(after - before for before, after in pairwise(times))


async def streams(report: Report, count: int) -> None:
    """So many at once, each token of each in its place."""
    tasks = [asyncio.create_task(stream()) for _ in range(count)]
    await asyncio.sleep(TOKENS * PACE / 2)
    each = report.grown() / count / 1024
    waits = sorted(await asyncio.gather(*tasks))
    print(
        f"{count} streams at once, all complete: {each:.1f} KiB each; longest wait for a token that takes {PACE} s:"
        f" median {waits[len(waits) // 2]:.2f} s, p99 {waits[int(len(waits) * 0.99)]:.2f} s",
        flush=True,
    )
    await report.line("none of them")


async def measure(options: argparse.Namespace) -> None:
    serve = ["-m", "shoal", "coordinator", "--listen-port", str(PORT)]
    few = herd_command(0, 2, 0)
    with started(*serve) as process, started(*few):
        server = Server(process)
        await wait_for_workers(2)
        report = Report(server)
        await report.line("2 workers")

        await ask(1000)
        before = server.memory()
        await ask(options.requests)
        print(
            f"after {options.requests} requests: {server.memory() / before:.3f} of the memory after 1,000", flush=True
        )

        await streams(report, options.streams)
        kept = await connections(options.connections)
        await report.line(f"{options.connections} idle connections", options.connections)
        for _, writer in kept:
            writer.close()
        await asyncio.sleep(SETTLE)
        await report.line("none of them")

        each = options.models // options.workers
        with started(*herd_command(2, options.workers - 2, each)):
            await wait_for_workers(options.workers)
            await report.line(f"{options.workers} workers, {each * options.workers} models", options.workers)
        await asyncio.sleep(SETTLE)
        await report.line("2 workers again")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--herd", type=int, nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    uvloop.run(herd(*options.herd) if options.herd else measure(options))


if __name__ == "__main__":
    main()
