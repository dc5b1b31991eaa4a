"""TCP connections that break in the middle of a stream, and clients that get the rest of it all the same."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec
from sim.simulation import MODEL, STEP, NumbersRuntime, counting

from shoal.api import build_app
from shoal.api.listener import Listener
from shoal.client import AsyncClient
from shoal.config import CoordinatorConfig, KeepConfig, WorkerConfig
from shoal.model_registry import Registry
from shoal.node import Coordinator
from shoal.rpc import TcpNetwork
from shoal.worker.worker import Worker

TOKENS = 60


class Served:
    """A coordinator and a worker on sockets; between the coordinator and its clients a wire that can be cut."""

    def __init__(self, coordinator: Coordinator, runtime: NumbersRuntime, address: str) -> None:
        self.coordinator = coordinator
        self.runtime = runtime
        self._behind = address.split(":")
        self._wires: list[asyncio.StreamWriter] = []
        self._forwarding = set[asyncio.Task[None]]()

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        self.address = "127.0.0.1:{1}".format(*self._server.sockets[0].getsockname())

    def cut(self) -> None:
        """Both ends meet a reset, in the middle of whatever they were at."""
        for writer in self._wires:
            writer.transport.abort()
        self._wires.clear()

    async def close(self) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._forwarding, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(*self._behind)
        self._wires += (writer, there_writer)
        for source, target in ((reader, there_writer), (there_reader, writer)):
            task = asyncio.create_task(_pump(source, target))
            self._forwarding.add(task)


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await source.read(173):  # so that a cut is seldom between two events
            target.write(data)
        target.close()


@asynccontextmanager
async def served(**keep: float) -> AsyncIterator[Served]:
    coordinator = Coordinator(CoordinatorConfig(), Registry(), TcpNetwork(), keep=msgspec.convert(keep, KeepConfig))
    app = build_app(coordinator.plane, metrics=coordinator.metrics.render, keeper=coordinator.keeper)
    listener = Listener(app, coordinator.server.accept, drain_timeout=1)
    address = await listener.start("127.0.0.1", 0)
    coordinator.start()
    runtime = NumbersRuntime()
    worker = Worker(WorkerConfig(port=0, coordinators=(address,)), {runtime.info.part: runtime}, TcpNetwork())
    await worker.start()
    made = Served(coordinator, runtime, address)
    await made.listen()
    try:
        async with asyncio.timeout(60):
            while not coordinator.plane.ready():
                await asyncio.sleep(0.01)
            yield made
    finally:
        await made.close()
        await worker.stop()
        await coordinator.stop()
        await listener.stop()


async def test_shoals_client_goes_on_over_the_next_connection() -> None:
    async with served() as s, AsyncClient(s.address) as client:
        text = ""
        async for chunk in client.stream("count", model=MODEL, max_tokens=TOKENS):
            text += chunk.text
            if chunk.tokens[-1] in (10, 30):
                s.cut()
        assert text == counting(TOKENS)
        assert s.runtime.steps == TOKENS, "nothing was computed twice"
        assert b'shoal_kept_answers_taken_up_total{by="client"} 2.0' in s.coordinator.metrics.render()


async def test_an_http_client_gets_the_rest_with_the_last_whole_event_it_has() -> None:
    body = msgspec.json.encode({"model": MODEL, "prompt": "count", "max_tokens": TOKENS, "stream": True})
    async with served() as s:
        had, seen = b"", ""
        for cut in (700, 2500, None):
            piece = await post(s, body, seen, cut)
            whole = piece[: piece.rfind(b"\n\n") + 2]  # what of an event came alone is thrown away
            had += whole
            seen = re.findall(rb"^id: (.+)$", whole, re.MULTILINE)[-1].decode()
        numbers = [int(number) for number in re.findall(rb"^id: \w+:(\d+)$", had, re.MULTILINE)]
        assert numbers == list(range(1, numbers[-1] + 1))
        assert b"".join(re.findall(rb'"text":"([^"]*)"', had)).decode() == counting(TOKENS)
        assert had.endswith(b"data: [DONE]\n\n")
        assert s.runtime.steps == TOKENS


async def post(s: Served, body: bytes, seen: str, cut: int | None) -> bytes:
    """The events that came until the connection broke, or all."""
    reader, writer = await asyncio.open_connection(*s.address.split(":"))
    head = f"POST /v1/completions HTTP/1.1\r\nhost: shoal\r\ncontent-length: {len(body)}\r\nlast-event-id: {seen}\r\n"
    writer.write(f"{head}connection: close\r\n\r\n".encode() + body)
    came = b""
    with suppress(ConnectionError):
        while data := await reader.read(100):
            came += data
            if cut is not None and len(came) > cut:
                s.cut()
                break
    writer.close()
    assert came.startswith(b"HTTP/1.1 200 ")
    return unchunked(came.partition(b"\r\n\r\n")[2])


def unchunked(body: bytes) -> bytes:
    """The body of a chunked answer, as far as it came."""
    found = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16) if size and rest else 0
        found += rest[:length]
        body = rest[length + 2 :] if length else b""
    return found


async def test_a_client_that_was_cut_off_for_good_frees_the_engine_after_the_grace_period() -> None:
    async with served(grace=0.3) as s:
        body = msgspec.json.encode({"model": MODEL, "prompt": "count", "max_tokens": 5000, "stream": True})
        await post(s, body, "", 700)
        await asyncio.sleep(5 * STEP)
        assert s.runtime.running
        async with asyncio.timeout(5):
            while s.runtime.running:
                await asyncio.sleep(STEP)
        assert s.coordinator.admission.in_flight == 0
