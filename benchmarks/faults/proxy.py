"""The network between a worker and its coordinators, with faults: a proxy that closes, holds back, delays and garbles.

The twin, over real sockets, of what :mod:`shoal.rpc.memory` does in one loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from shoal.rpc.frames import END, HEADER, PREFACE_SIZE, FrameType

CHUNK = 2**16
TO_COORDINATOR, TO_WORKER = "to the coordinator", "to the worker"
BOTH = (TO_COORDINATOR, TO_WORKER)


@dataclass
class Link:
    """What is wrong now. ``held``: directions in which bytes stop."""

    held: set[str] = field(default_factory=set)
    delay: float = 0.0  # seconds, each way
    garble: Garble | None = None

    def heal(self) -> None:
        self.held.clear()
        self.delay, self.garble = 0.0, None


class Proxy:
    """Listens for one worker and dials one coordinator. Runs in a loop and a thread of its own."""

    def __init__(self, target: str, link: Link) -> None:
        self._target = target
        self._link = link
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self.address = self._run(self._listen())

    def close_all(self) -> None:
        """Every connection ends, in order on both sides."""
        self._run(self._end(lambda writer: writer.close()))

    def reset_all(self) -> None:
        """Every connection breaks: a RST on both sides."""
        self._run(self._end(_reset))

    def half_close(self) -> None:
        """Bytes from the coordinator end; those to it still pass."""
        self._run(self._half_close())

    def stop(self) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listen(self) -> str:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    async def _end(self, end: Callable[[asyncio.StreamWriter], None]) -> None:
        for pair in list(self._pairs):
            for writer in pair:
                end(writer)

    async def _half_close(self) -> None:
        for worker, _ in list(self._pairs):
            worker.write_eof()

    async def _stop(self) -> None:
        self._server.close()
        await self._end(_reset)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self._target.rpartition(":")
        try:
            onward_reader, onward = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.close()
            return
        pair = writer, onward
        self._pairs.add(pair)
        ways = [
            asyncio.create_task(self._carry(reader, onward, TO_COORDINATOR)),
            asyncio.create_task(self._carry(onward_reader, writer, TO_WORKER)),
        ]
        try:
            await asyncio.wait(ways)
        finally:
            for way in ways:
                way.cancel()
            self._pairs.discard(pair)
            writer.close()
            onward.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        """Until either side ends; then the other's end is told."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(1024)
        delivering = asyncio.create_task(self._deliver(queue, writer, way))
        frames = Frames()
        try:
            with contextlib.suppress(OSError):
                while data := await reader.read(CHUNK):
                    whole = frames.cut(data)
                    if self._link.garble is not None and way == TO_COORDINATOR:
                        whole = self._link.garble(whole)
                    await queue.put((self._loop.time() + self._link.delay, b"".join(whole)))
            await queue.put((self._loop.time() + self._link.delay, b""))
            await delivering
        finally:
            delivering.cancel()

    async def _deliver(self, queue: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, way: str) -> None:
        with contextlib.suppress(OSError):
            while True:
                at, data = await queue.get()
                await asyncio.sleep(at - self._loop.time())
                while way in self._link.held:  # noqa: ASYNC110  another thread changes it
                    await asyncio.sleep(0.01)
                if not data:
                    break
                writer.write(data)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()


class Frames:
    """Cuts one direction of a connection into the preface and whole frames; what is not whole waits."""

    def __init__(self) -> None:
        self._rest = b""
        self._begun = False

    def cut(self, data: bytes) -> list[bytes]:
        self._rest += data
        found: list[bytes] = []
        while (size := self._size()) <= len(self._rest):
            found.append(self._rest[:size])
            self._rest = self._rest[size:]
        return found

    def _size(self) -> int:
        if not self._begun:
            self._begun = len(self._rest) >= PREFACE_SIZE
            return PREFACE_SIZE
        if len(self._rest) < HEADER.size:
            return HEADER.size
        return HEADER.size + int(HEADER.unpack_from(self._rest)[0])


def is_answer(frame: bytes) -> bool:
    """A part of an answer, and not the last: the last is missed at once."""
    if len(frame) < HEADER.size:  # the preface
        return False
    _, kind, flags, _ = HEADER.unpack_from(frame)
    return kind == FrameType.DATA and not flags & END


def stream_of(frame: bytes) -> int:
    return int(HEADER.unpack_from(frame)[3])


class Garble:
    """Loses, repeats or holds back one answer of a worker's, and then nothing more.

    ``how``: ``drop``, ``duplicate``, or ``reorder``, which lets the next answer of the same stream pass it.
    """

    def __init__(self, how: str) -> None:
        self.done = False
        self._how = how
        self._held: bytes | None = None

    def __call__(self, frames: list[bytes]) -> list[bytes]:
        return [copy for frame in frames for copy in self._of(frame)]

    def _of(self, frame: bytes) -> list[bytes]:
        if self.done or not is_answer(frame):
            return [frame]
        if self._how == "reorder":
            return self._reordered(frame)
        self.done = True
        return [] if self._how == "drop" else [frame, frame]

    def _reordered(self, frame: bytes) -> list[bytes]:
        if self._held is None:
            self._held = frame
            return []
        if stream_of(frame) != stream_of(self._held):
            return [frame]
        self.done = True
        return [frame, self._held]


def _reset(writer: asyncio.StreamWriter) -> None:
    end = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
