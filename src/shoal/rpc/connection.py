"""A connection to a peer: the asyncio shell over :class:`WireProtocol`. Either side may ask at any time."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from shoal.errors import DeadlineExceeded, ProtocolError, ShoalError, WorkerLost
from shoal.messages import Answer, Request
from shoal.rpc.codec import serialize
from shoal.rpc.events import (
    Broken,
    CancelledByPeer,
    Credited,
    Event,
    Failed,
    Hello,
    Opened,
    Parted,
    Pinged,
    Ponged,
    Ready,
    Received,
)
from shoal.rpc.inbound import Handler, Inbound
from shoal.rpc.keepalive import Keepalive, Pulse, Verdict
from shoal.rpc.limits import FRAME_TIMEOUT, Budget, Unfinished
from shoal.rpc.network import join_address
from shoal.rpc.outbound import Answers, Outbound
from shoal.rpc.protocol import PING_SIZE, WireProtocol
from shoal.rpc.writer import Writer

logger = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT: Final = 10.0  # seconds an accepted peer has to introduce itself
FAREWELL_TIMEOUT: Final = 1.0  # seconds a closing connection gives the peer to take what was written


class Connection(asyncio.Protocol):
    """One connection; a protocol for any asyncio transport.

    ``handler(message, call)`` serves what the peer asks: it returns the only answer, or a coroutine that sends answers
    in a task of its own, which ends with the connection; its return ends the stream. What either raises becomes the
    error of the peer. Without a handler the peer may not ask.
    ``dials`` is true on the side that called the other. ``keepalive=None`` is for peers on the same machine whose
    end shows in other ways. ``handshake_timeout`` in seconds; ``on_closed`` is called once, after the end.
    """

    def __init__(
        self,
        *,
        hello: Hello,
        handler: Handler | None = None,
        dials: bool = False,
        keepalive: Keepalive | None = Keepalive(),  # noqa: B008  (it is frozen)
        handshake_timeout: float | None = HANDSHAKE_TIMEOUT,
        budget: Budget | None = None,
        unfinished: Unfinished | None = None,
        on_closed: Callable[[Connection], None] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._protocol = WireProtocol(hello, dials=dials, unfinished=unfinished)
        self._writer = Writer(take_held=self._protocol.take_held, overrun=self._overrun)
        self._inbound = Inbound(self, self._protocol, self._writer, handler, budget or Budget())
        self._outbound = Outbound(self._protocol, self._writer, self._loss)
        self._keepalive = keepalive
        self._pulse: Pulse | None = None
        self.heard = self._loop.time()  # when anything last came, on the loop's clock
        self._beginning = 0  # ordinal of the frame that was not whole at the last read; 0: none
        self._begun = 0.0  # when that frame began, on the loop's clock
        self._unsent = 0  # bytes the transport held when the pulse was last felt
        self._took = 0.0  # when the peer was last seen to take bytes of ours, on the loop's clock
        self._place = ""  # " at HOST:PORT", once it is known
        self._handshake_timeout = handshake_timeout
        self._on_closed = on_closed
        self._why: str | None = None  # why the connection is over
        self._failure: ShoalError | None = None  # the same, for those who wait for it to be ready
        self._settled = asyncio.Event()  # ready, or over
        self._gone = asyncio.Event()  # the transport is closed
        self._timer: asyncio.TimerHandle | None = None  # the handshake's, then the pulse's, then the farewell's
        self._takers = self._takers_of_events()

    # -- for its users

    @property
    def peer(self) -> Hello:
        """Who is on the other side. Known once :meth:`ready` has returned."""
        if self._protocol.peer is None:
            raise ProtocolError("the other side has not introduced itself")
        return self._protocol.peer

    @property
    def name(self) -> str:
        """The peer, for people: role, id and address, as far as they are known."""
        return f"{self._protocol.peer or 'a peer'}{self._place}"

    @property
    def is_closed(self) -> bool:
        """Is it over, or about to be? Nothing can be asked any more."""
        return self._why is not None

    @property
    def reason(self) -> str:
        """Why it is over; empty while it is not."""
        return self._why or ""

    async def ready(self, timeout: float | None) -> None:
        """Wait until the peer has introduced itself.

        Raises :class:`ProtocolError` when it is no Shoal of this version, :class:`WorkerLost` when the connection
        ends, :class:`DeadlineExceeded` after ``timeout`` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._settled.wait()
        except TimeoutError as error:
            raise DeadlineExceeded(f"{self.name} did not introduce itself within {timeout:.3g} s") from error
        if self._failure is not None:
            raise self._failure

    async def call(self, message: Request, timeout: float | None) -> Answer:
        """Ask for exactly one answer, within ``timeout`` seconds.

        Raises the peer's error, :class:`DeadlineExceeded`, :class:`WorkerLost` when the connection ends, or
        :class:`PayloadTooLarge`. Cancelling the wait cancels the request.
        """
        async with Answers(self._outbound, message, timeout) as answers:
            answer = await answers.next()
            if answer is None or await answers.next() is not None:
                number = "no answer" if answer is None else "more than one answer"
                raise ProtocolError(f"{self.name} gave {number} to a call")
            return answer

    def first(self, message: Request, timeout: float | None) -> Awaitable[Answer | None]:
        """Ask, and take the first answer; None: it ended without any. What comes behind it is not wanted, so who wants
        no more than one has it here for less than as a stream. Raises as :meth:`call` does."""
        return self._outbound.first(message, timeout)

    def stream(self, message: Request, timeout: float | None) -> Answers:
        """Ask for any number of answers: ``async with connection.stream(…) as answers: async for …``.

        ``timeout`` in seconds is for all of them. Raises as :meth:`call` does, after what had come before.
        """
        return Answers(self._outbound, message, timeout)

    def notify(self, message: Request) -> None:
        """Tell the peer something that wants no answer. Raises :class:`WorkerLost` when the connection is over."""
        if (error := self._loss()) is not None:
            raise error
        self._writer.write_unpaced(self._protocol.notify(serialize(message)))

    def ping(self) -> None:
        """Ask for a sign of life. It shows in :attr:`heard`, whatever the peer's handlers are doing."""
        if not self.is_closed:
            self._writer.write_unpaced(self._protocol.ping(os.urandom(PING_SIZE)))

    def give_up_calls(self, reason: str) -> None:
        """Wait for no answer any longer; the connection itself stays."""
        self._outbound.give_up(lambda: WorkerLost(f"{self.name}: {reason}"))

    def reject(self, reason: str) -> None:
        """End it because the peer breaks the rules."""
        if not self.is_closed:
            self._broken(ProtocolError(reason))

    async def close(self, reason: str = "closed") -> None:
        """Say goodbye, end every call of either side, and wait until all is over."""
        if not self.is_closed:
            self._part(reason, f"this side closed it: {reason}")
        await self.wait_closed()

    async def wait_closed(self) -> None:
        """Wait until the transport is closed and every handler has ended."""
        if self._transport is not None:
            await self._gone.wait()
        await self._inbound.wait()

    def __repr__(self) -> str:
        state = "ready" if self._settled.is_set() else "handshake"
        if self._why is not None:
            state = f"closed: {self._why}"
        return f"<Connection {self.name}, {state}, calls out {len(self._outbound)}, in {len(self._inbound)}>"

    # -- for the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class
        if isinstance(peername := transport.get_extra_info("peername"), tuple):  # a socket pair has no addresses
            self._place = f" at {join_address(*peername[:2])}"
        self._writer.start(self._transport)
        self._writer.write(self._protocol.begin())
        if self._handshake_timeout is not None:
            self._timer = self._loop.call_later(self._handshake_timeout, self._handshake_expired)

    def data_received(self, data: bytes) -> None:
        self.heard = self._loop.time()
        self._writer.hold()
        try:
            for event in self._protocol.receive_data(data):
                if self._why is not None:
                    return
                self._takers[type(event)](event)
        finally:
            self._writer.release()
        if (beginning := self._protocol.beginning) != self._beginning:
            self._beginning, self._begun = beginning, self.heard

    def pause_writing(self) -> None:
        self._writer.pause()

    def resume_writing(self) -> None:
        self._writer.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(f"the connection broke: {exc}" if exc else "the other side closed the connection")
        self._stop_timer()
        # Half a frame may be large, and who still holds this connection is not always gone soon.
        self._protocol.drop()
        self._writer.detach()
        self._transport = None
        self._gone.set()
        if self._on_closed is not None:
            self._on_closed(self)

    # -- events

    def _takers_of_events(self) -> dict[type[Event], Callable[[Any], None]]:
        return {
            Ready: self._begin,
            Opened: self._inbound.opened,
            Credited: self._inbound.credited,
            CancelledByPeer: self._inbound.cancelled,
            Received: self._outbound.received,
            Failed: self._outbound.failed,
            Pinged: lambda event: self._writer.write_unpaced(self._protocol.pong(event.data)),
            Ponged: lambda _event: None,  # that it came was heard already
            Parted: self._parted,
            Broken: lambda event: self._broken(event.error),
        }

    def _begin(self, _event: Ready) -> None:
        self._stop_timer()
        if self._keepalive is not None:
            self._pulse = Pulse(self._keepalive)
            self._feel_pulse()
        self._settled.set()

    def _parted(self, event: Parted) -> None:
        self._lose(f"it said goodbye: {event.reason}")
        self._end_transport()

    def _feel_pulse(self) -> None:
        assert self._pulse is not None
        assert self._transport is not None
        unsent = self._transport.get_write_buffer_size()
        if unsent < self._unsent:
            # The peer takes what we write; a ping may be behind a long frame in the same queue.
            self._took = self._loop.time()
        self._unsent = unsent
        verdict, again = self._pulse.check(max(self.heard, self._took), self._loop.time())
        if verdict is Verdict.LOST:
            self._abort("it was silent for too long")
            return
        if self._beginning and self._loop.time() - self._begun > FRAME_TIMEOUT:
            self._abort(f"a frame that it began did not come whole within {FRAME_TIMEOUT:g} s")
            return
        if verdict is Verdict.PING:
            self.ping()
        self._timer = self._loop.call_later(again, self._feel_pulse)

    def _handshake_expired(self) -> None:
        self._abort(f"it did not introduce itself within {self._handshake_timeout} s")

    # -- the end

    def _broken(self, error: ProtocolError) -> None:
        logger.warning("%s broke the protocol: %s", self.name, error, extra={"action": "protocol_error"})
        self._failure = error
        self._part(error.message, f"it broke the protocol: {error}")

    def _loss(self) -> WorkerLost | None:
        """The error for everyone who waits on a connection that is over: a new one for each."""
        return None if self._why is None else WorkerLost(f"{self.name} is gone: {self._why}")

    def _lose(self, why: str) -> None:
        """It is over: tell everyone, once."""
        if self._why is not None:
            return
        self._why = why
        self._failure = self._failure or self._loss()
        self._settled.set()
        self._writer.close()
        self._outbound.lose()
        self._inbound.cancel_all()

    def _part(self, reason: str, why: str) -> None:
        """End it in order, with a last word to the peer."""
        self._writer.flush()  # answers that were held back go before the goodbye
        if self._protocol.understands_goodbye:
            self._writer.write(self._protocol.goodbye(reason))
            self._writer.flush()
        self._lose(why)
        self._end_transport()

    def _end_transport(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._stop_timer()
            self._timer = self._loop.call_later(FAREWELL_TIMEOUT, self._transport.abort)

    def _abort(self, why: str) -> None:
        self._lose(why)
        if self._transport is not None:
            self._transport.abort()

    def _overrun(self) -> None:
        self._abort("it does not take what it is sent")

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
