"""What the peer asks: a task for every request, held to its deadline, its credit and the peer's budget."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeAlias

from shoal.aio import within
from shoal.errors import Cancelled, DeadlineExceeded, ErrorInfo, InvalidRequest, Overloaded, ShoalError, WorkerLost
from shoal.messages import Answer, Notice, Request
from shoal.rpc.codec import deserialize, serialize
from shoal.rpc.events import Opened
from shoal.rpc.limits import MAX_REFUSED_NOTICES, MAX_STALL, Budget
from shoal.rpc.protocol import NOTICE, LocalProtocolError, WireProtocol
from shoal.rpc.writer import Writer

if TYPE_CHECKING:
    from shoal.rpc.connection import Connection

logger = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[Request, "Call"], Coroutine[Any, Any, None]]


class Call:
    """A request of the peer, as its handler sees it."""

    def __init__(self, connection: Connection, protocol: WireProtocol, writer: Writer, event: Opened) -> None:
        self.connection = connection
        self.deadline = None if event.timeout is None else asyncio.get_running_loop().time() + event.timeout
        self.stream_id = event.stream_id
        self.size = len(event.payload)  # bytes
        self.is_given_up = False  # the peer has said that it wants no more
        self._protocol = protocol
        self._writer = writer
        self._credited: asyncio.Event | None = None  # most calls never wait for credit

    @property
    def is_open(self) -> bool:
        """Does the peer still want an answer?"""
        return self._protocol.is_open(self.stream_id) and not self.connection.is_closed

    async def send(self, message: Answer) -> None:
        """Send an answer, once the peer has room for it. What ends the wait is the call's deadline or its end.

        Raises :class:`InvalidRequest` or :class:`PayloadTooLarge` for an answer that cannot travel,
        :class:`DeadlineExceeded` when the peer gives no credit for :data:`MAX_STALL` seconds, and
        :class:`Cancelled` when nobody wants it.
        """
        if self.stream_id == NOTICE:
            raise LocalProtocolError("a notice takes no answer")
        buffers = serialize(message)
        while not self._protocol.can_send(self.stream_id) or self._writer.is_full:
            if not self.is_open:
                raise Cancelled("the other side wants no more answers")
            if self._writer.is_full:
                await self._writer.has_room()
            else:
                await self._credit()
        self._writer.write(self._protocol.send(self.stream_id, buffers))

    async def _credit(self) -> None:
        self._credited = self._credited or asyncio.Event()
        self._credited.clear()
        try:
            await asyncio.wait_for(self._credited.wait(), MAX_STALL)
        except TimeoutError:
            raise DeadlineExceeded(f"nobody has read the answer for {MAX_STALL:.0f} s") from None

    def wake(self) -> None:
        """There may be credit."""
        if self._credited is not None:
            self._credited.set()

    def end(self) -> None:
        if self.is_open:
            self._writer.write(self._protocol.end(self.stream_id))

    def fail(self, error: ErrorInfo) -> None:
        if self.is_open:
            self._writer.write_unpaced(self._protocol.fail(self.stream_id, error))


class Inbound:
    """The peer's requests that are being worked on. Every one gets exactly one end: END, ERROR or its CANCEL."""

    def __init__(
        self,
        connection: Connection,
        protocol: WireProtocol,
        writer: Writer,
        handler: Handler | None,
        budget: Budget,
    ) -> None:
        self._connection = connection
        self._protocol = protocol
        self._writer = writer
        self._handler = handler
        self._budget = budget
        self._tasks: dict[asyncio.Task[None], Call] = {}
        self._by_stream: dict[int, asyncio.Task[None]] = {}  # without notices
        self._refused_notices = 0

    def __len__(self) -> int:
        return len(self._tasks)

    def opened(self, event: Opened) -> None:
        call = Call(self._connection, self._protocol, self._writer, event)
        try:
            if self._handler is None:
                raise InvalidRequest("this side takes no requests")
            if not self._budget.take(call.size):
                raise Overloaded(f"{self._connection.name} has as many requests here as one peer may have")
        except ShoalError as error:
            self._refuse(call, error)
            return
        task = asyncio.create_task(self._serve(self._handler, call, event), name=f"rpc stream {call.stream_id}")
        self._tasks[task] = call
        if call.stream_id != NOTICE:
            self._by_stream[call.stream_id] = task
        task.add_done_callback(self._ended)

    def cancelled(self, stream_id: int) -> None:
        if (task := self._by_stream.get(stream_id)) is not None:
            self._tasks[task].is_given_up = True
            task.cancel()

    def credited(self, stream_id: int) -> None:
        if (task := self._by_stream.get(stream_id)) is not None:
            self._tasks[task].wake()

    def cancel_all(self) -> None:
        for task in list(self._tasks):
            task.cancel()

    async def wait(self) -> None:
        """Until every handler has ended, but for the one that waits here itself."""
        others = self._tasks.keys() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others)

    async def _serve(self, handler: Handler, call: Call, event: Opened) -> None:
        # Whatever the handler raises has to become an answer here: no one else would tell the peer.
        try:
            message = deserialize(event.payload, Request)
            if call.stream_id == NOTICE and not isinstance(message, Notice):
                self._connection.reject(f"{type(message).__name__} wants an answer, so it needs a stream")
                return
            await within(event.timeout, handler(message, call), DeadlineExceeded)
            call.end()
        except ShoalError as error:
            self._refuse(call, error)
        except Exception:
            logger.exception("a request handler failed", extra={"action": "handler_failed"})
            self._refuse(call, ShoalError("internal error"))

    def _refuse(self, call: Call, error: ShoalError) -> None:
        if call.stream_id == NOTICE:
            extra = {"action": "notice_refused", "code": error.code}
            logger.warning("a notice of %s was refused: %s", self._connection.name, error, extra=extra)
            self._refused_notices += 1
            if self._refused_notices >= MAX_REFUSED_NOTICES:
                self._connection.reject(f"{self._refused_notices} of its notices were refused")
        call.fail(error.to_info())

    def _ended(self, task: asyncio.Task[None]) -> None:
        # Not at the end of the task's own code: a task that is cancelled before its first step runs none of it.
        # If the stream is still open, neither the peer nor the connection ended the task but this process, which
        # stops: another worker may take the request.
        call = self._tasks.pop(task)
        self._by_stream.pop(call.stream_id, None)
        self._budget.give_back(call.size)
        if call.is_open:
            call.fail(WorkerLost("the request was stopped where it ran").to_info())
