"""The way out: frames of one turn of the loop go out in one write, and nobody outruns the transport for long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from shoal.rpc.codec import Buffer
from shoal.rpc.limits import KIB, MAX_UNPACED_BYTES

#: Buffers below this are cheaper to join than to hand over one by one; larger ones are not copied.
_JOIN_BELOW: Final = 16 * KIB
#: So much waits for the end of the turn at most, so that the transport can say in time that it is full.
_FLUSH_AT: Final = 64 * KIB


class Writer:
    """Collects frames and hands them to the transport, once it has one.

    ``take_held`` gives frames that were waiting for the end of the turn; ``overrun`` is called once when the peer
    takes nothing and is owed too much.
    """

    def __init__(self, *, take_held: Callable[[], list[Buffer]], overrun: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._take_held = take_held
        self._overrun = overrun
        self._buffers: list[Buffer] = []
        self._size = 0
        self._scheduled = False
        self.is_full = False  # wants the transport nothing more now?
        self._closed = False
        self._unpaced = 0  # bytes written while the transport was full
        self._waiters: list[asyncio.Future[None]] = []

    def start(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    async def has_room(self) -> None:
        """Wait until the transport takes more, or the connection is over. The caller bounds the wait."""
        while self.is_full and not self._closed:
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)

    def hold(self) -> None:
        """What is written from now on goes out with :meth:`release`, and needs no other turn of the loop."""
        self._scheduled = True

    def release(self) -> None:
        self._scheduled = False
        self.flush()

    def write(self, buffers: Sequence[Buffer]) -> None:
        """Send soon. For frames whose sender waited for :meth:`has_room`; may be empty to release held frames."""
        if self._closed:
            return
        self._buffers += buffers
        self._size += sum(map(len, buffers))
        if self._size >= _FLUSH_AT:
            self.flush()
        elif not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.release)

    def write_unpaced(self, buffers: Sequence[Buffer]) -> None:
        """Send soon what cannot wait. A peer that lets too much of it pile up is given up."""
        if self.is_full and not self._closed:
            self._unpaced += sum(map(len, buffers))
            if self._unpaced > MAX_UNPACED_BYTES:
                self.close()
                self._overrun()
        self.write(buffers)

    def flush(self) -> None:
        transport = self._transport
        if self._closed or transport is None:
            return
        buffers, size, held = self._buffers, self._size, self._take_held()
        self._buffers, self._size = [], 0
        if buffers and not held and size < _JOIN_BELOW:
            transport.write(b"".join(buffers))
            return
        small: list[Buffer] = []
        for buffer in [*buffers, *held]:
            if len(buffer) < _JOIN_BELOW:
                small.append(buffer)
                continue
            if small:
                transport.write(b"".join(small))
                small = []
            transport.write(buffer)
        if small:
            transport.write(b"".join(small))

    def pause(self) -> None:
        self.is_full = True

    def resume(self) -> None:
        self.is_full = False
        self._unpaced = 0
        self._wake()

    def close(self) -> None:
        """Nothing is written from now on, and nobody waits."""
        self._closed = True
        self._buffers = []
        self._wake()

    def detach(self) -> None:
        """The transport is no more."""
        self._transport = None

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
