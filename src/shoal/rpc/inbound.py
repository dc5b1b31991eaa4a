"""What the peer asks: a task for every request that has to wait for something, held to its deadline, its credit and
the peer's budget."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeAlias

from shoal.aio import Guard
from shoal.errors import Cancelled, DeadlineExceeded, ErrorInfo, InvalidRequest, Overloaded, ShoalError, WorkerLost
from shoal.messages import Answer, Message, Notice, Request
from shoal.rpc.codec import deserialize, serialize
from shoal.rpc.deadlines import Deadlines
from shoal.rpc.events import CancelledByPeer, Credited, Opened
from shoal.rpc.limits import MAX_REFUSED_NOTICES, MAX_STALL, Budget
from shoal.rpc.protocol import NOTICE, LocalProtocolError, WireProtocol
from shoal.rpc.writer import Writer

if TYPE_CHECKING:
    from shoal.rpc.connection import Connection

logger = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[Request, "Call"], Answer | Coroutine[Any, Any, None]]


class Call:
    """A request of the peer, as its handler sees it."""

    __slots__ = (
        "_credited",
        "_protocol",
        "_writer",
        "connection",
        "deadline",
        "guard",
        "is_given_up",
        "size",
        "stream_id",
        "task",
        "work",
    )

    guard: Guard  # around the work, where it has a deadline
    task: asyncio.Task[None]  # in which it is done
    work: Coroutine[Any, Any, None]

    def __init__(self, connection: Connection, protocol: WireProtocol, writer: Writer, event: Opened) -> None:
        self.connection = connection
        self.deadline = None if event.timeout is None else connection.heard + event.timeout  # on the loop's clock
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
        while self._writer.is_full or not self._protocol.can_send(self.stream_id):
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

    def answer(self, message: Answer) -> bool:
        """Send the only answer, unless it would have to wait. Raises as :meth:`send` does."""
        if self._writer.is_full:
            return False
        self._writer.write(self._protocol.answer(self.stream_id, serialize(message)))
        return True

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
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._protocol = protocol
        self._writer = writer
        self._handler = handler
        self._budget = budget
        self._tasks: dict[asyncio.Task[None], Call] = {}
        self._by_stream: dict[int, Call] = {}  # without notices
        self._deadlines = Deadlines(self._expire)
        self._refused_notices = 0

    def __len__(self) -> int:
        return len(self._tasks)

    def opened(self, event: Opened) -> None:
        call = Call(self._connection, self._protocol, self._writer, event)
        try:
            if self._handler is None:
                raise InvalidRequest("this side takes no requests")
            if not self._budget.has_room(call.size):
                raise Overloaded(f"{self._connection.name} has as many requests here as one peer may have")
            message = deserialize(event.payload, Request)
            if call.stream_id == NOTICE and not isinstance(message, Notice):
                self._connection.reject(f"{type(message).__name__} wants an answer, so it needs a stream")
                return
            work = self._handler(message, call)
            if isinstance(work, Message):
                if call.answer(work):
                    return
                work = call.send(work)
        except Exception as error:
            self._fail(call, error)
            return
        self._begin(call, work)

    def _begin(self, call: Call, work: Coroutine[Any, Any, None]) -> None:
        self._budget.take(call.size)
        call.work = work
        call.task = self._loop.create_task(self._serve(call), name=f"rpc stream {call.stream_id}")
        call.task.add_done_callback(self._ended)
        self._tasks[call.task] = call
        if call.stream_id != NOTICE:
            self._by_stream[call.stream_id] = call

    def cancelled(self, event: CancelledByPeer) -> None:
        if (call := self._by_stream.get(event.stream_id)) is not None:
            call.is_given_up = True
            call.task.cancel()

    def credited(self, event: Credited) -> None:
        if (call := self._by_stream.get(event.stream_id)) is not None:
            call.wake()

    def cancel_all(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        self._deadlines.clear()

    async def wait(self) -> None:
        """Until every handler has ended, but for the one that waits here itself."""
        others = self._tasks.keys() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others)

    async def _serve(self, call: Call) -> None:
        try:
            if call.deadline is None:
                await call.work
            else:
                call.guard = Guard()
                with call.guard:
                    self._deadlines.add(call.stream_id, call.deadline)
                    await call.work
            call.end()
        except Exception as error:
            self._fail(call, error)

    def _expire(self, stream_id: int) -> None:
        self._by_stream[stream_id].guard.interrupt(DeadlineExceeded())

    def _fail(self, call: Call, error: Exception) -> None:
        """Whatever is raised has to become an answer: no one else would tell the peer."""
        if not isinstance(error, ShoalError):
            logger.error("a request handler failed", exc_info=error, extra={"action": "handler_failed"})
            error = ShoalError("internal error")
        self._refuse(call, error)

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
        call.work.close()
        self._by_stream.pop(call.stream_id, None)
        self._deadlines.remove(call.stream_id)
        self._budget.give_back(call.size)
        if call.is_open:
            call.fail(WorkerLost("the request was stopped where it ran").to_info())
