"""What this side asks: streams of answers with a deadline, each of which ends exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from shoal.errors import DeadlineExceeded, ProtocolError, ShoalError, WorkerLost, from_info
from shoal.messages import Answer, Request
from shoal.rpc.codec import Buffer, deserialize, serialize
from shoal.rpc.deadlines import Deadlines
from shoal.rpc.events import Failed, Received
from shoal.rpc.inbox import First, Inbox
from shoal.rpc.protocol import WireProtocol
from shoal.rpc.writer import Writer


class Answers:
    """The answers to one request: an async context manager and iterator. Leaving it early cancels the request."""

    def __init__(self, outbound: Outbound, message: Request, timeout: float | None) -> None:
        self._outbound = outbound
        self._message = message
        self._timeout = timeout

    async def __aenter__(self) -> Self:
        self._stream_id, self._inbox = await self._outbound.open(self._message, self._timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._outbound.leave(self._stream_id)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Answer:
        answer = _read(await self._inbox.get())
        if answer is None:
            raise StopAsyncIteration
        return answer

    async def next(self) -> Answer | None:
        """The next answer, or None after the last. Raises what ended the stream."""
        return _read(await self._inbox.get())


def _read(payload: Buffer | None) -> Answer | None:
    if payload is None:
        return None
    try:
        answer: Answer = deserialize(payload, Answer)
    except ShoalError as error:
        # Not the asker's fault, as an InvalidRequest would say.
        raise ProtocolError(f"an answer is not valid: {error}") from error
    return answer


class Outbound:
    """The streams that this side opened and has not left. ``lost`` makes the error of a dead connection."""

    def __init__(self, protocol: WireProtocol, writer: Writer, lost: Callable[[], WorkerLost | None]) -> None:
        self._protocol = protocol
        self._writer = writer
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._inboxes: dict[int, Inbox | First] = {}
        self._deadlines = Deadlines(self._expire)

    def __len__(self) -> int:
        return len(self._inboxes)

    async def open(self, message: Request, timeout: float | None) -> tuple[int, Inbox]:
        buffers = serialize(message)
        left = await self._room(timeout) if self._writer.is_full else timeout
        stream_id = self._ask(buffers, left, timeout)
        inbox = Inbox(self._protocol.hello.credit, lambda count: self._grant(stream_id, count), timeout)
        self._inboxes[stream_id] = inbox
        return stream_id, inbox

    async def first(self, message: Request, timeout: float | None) -> Answer | None:
        buffers = serialize(message)
        left = await self._room(timeout) if self._writer.is_full else timeout
        stream_id = self._ask(buffers, left, timeout)
        inbox = self._inboxes[stream_id] = First(self._loop.create_future(), timeout)
        try:
            payload = await inbox.future
        finally:
            self.leave(stream_id)
            del inbox  # or its error and this frame would hold each other, and the whole request
        return _read(payload)

    async def _room(self, timeout: float | None) -> float | None:
        """Wait until the transport takes more. Returns what that has left of ``timeout``, in seconds."""
        began = self._loop.time()
        try:
            async with asyncio.timeout(timeout):
                await self._writer.has_room()
        except TimeoutError as error:
            raise DeadlineExceeded(f"the request could not be sent within {timeout} s") from error
        return None if timeout is None else timeout - (self._loop.time() - began)

    def _ask(self, buffers: Sequence[Buffer], left: float | None, timeout: float | None) -> int:
        """The stream that the message has opened. The caller reads it from now on."""
        if (error_of_loss := self._lost()) is not None:
            raise error_of_loss
        if left is not None and left <= 0:
            raise DeadlineExceeded(f"a timeout of {timeout} s leaves no time for the request")
        stream_id, frames = self._protocol.open(buffers, left)
        if left is not None and timeout is not None:
            self._deadlines.add(stream_id, self._loop.time() + left)
        self._writer.write(frames)
        return stream_id

    def leave(self, stream_id: int) -> None:
        """Nobody reads this stream any more."""
        del self._inboxes[stream_id]
        self._deadlines.remove(stream_id)
        if self._protocol.is_open(stream_id):
            self._cancel(stream_id)

    def received(self, event: Received) -> None:
        inbox = self._inboxes[event.stream_id]
        if event.payload is not None:
            inbox.put(event.payload)
        if event.end:
            inbox.end()

    def failed(self, event: Failed) -> None:
        self._inboxes[event.stream_id].end(from_info(event.error))

    def lose(self) -> None:
        """The connection is over: every reader learns it at once."""
        for inbox in self._inboxes.values():
            inbox.end(self._lost())
        self._deadlines.clear()

    def give_up(self, error: Callable[[], ShoalError]) -> None:
        """The peer may be there, but nobody waits for it any longer: every reader gets an error of its own."""
        for stream_id, inbox in self._inboxes.items():
            if not inbox.ended:
                inbox.end(error())
                self._cancel(stream_id)

    def _grant(self, stream_id: int, count: int) -> None:
        self._writer.write_unpaced(self._protocol.credit(stream_id, count))

    def _expire(self, stream_id: int) -> None:
        inbox = self._inboxes[stream_id]
        inbox.end(DeadlineExceeded(f"the answer did not end within {inbox.timeout:g} s"))
        self._cancel(stream_id)

    def _cancel(self, stream_id: int) -> None:
        if self._protocol.is_open(stream_id) and self._lost() is None:
            self._writer.write_unpaced(self._protocol.cancel(stream_id))
