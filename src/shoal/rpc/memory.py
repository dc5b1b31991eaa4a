"""The network in memory, with faults: the twin of TCP for tests and simulations of a whole fleet.

It keeps TCP's promises (bytes in order, backpressure, an end that is noticed) and breaks them on demand. All goes
through the running loop, so on a :class:`~shoal.clock.ManualClockLoop` time passes only when nothing else can.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
from collections.abc import Callable
from typing import Any, Final, TypeVar

from shoal.errors import ConfigError, WorkerLost
from shoal.rpc.codec import Buffer
from shoal.rpc.limits import KIB
from shoal.rpc.network import Listener, join_address, split_address

P = TypeVar("P", bound=asyncio.Protocol)

HIGH_WATER: Final = 64 * KIB  # bytes on their way; above, the writer is asked to pause. As in asyncio itself
LOW_WATER: Final = HIGH_WATER // 4


class Faults:
    """What is wrong between two hosts, in both directions, for connections there are and for those to come."""

    def __init__(self) -> None:
        self.refused = False  # new connections are turned away
        self.delay = 0.0  # seconds that bytes, and the making of a connection, take
        self.tamper: Callable[[bytes], bytes] | None = None  # what becomes of the bytes of one write
        self.stalled = False
        self.reachable = asyncio.Event()
        self.reachable.set()
        self.ends: set[_MemoryTransport] = set()

    def stall(self) -> None:
        """Bytes stop on their way, as in a network that loses every packet and would send it again."""
        self.stalled = True

    def partition(self) -> None:
        """As :meth:`stall`, and new connections get no answer. Neither side is told: both are half-open."""
        self.stall()
        self.reachable.clear()

    def heal(self) -> None:
        """The end of a stall or partition: what waited arrives, as TCP would have it."""
        self.stalled = False
        self.reachable.set()
        for end in list(self.ends):
            end.deliver_soon()

    def cut(self) -> None:
        """Every connection breaks; both sides are told at once."""
        for end in list(self.ends):
            end.break_off(ConnectionResetError("the link was cut"))


class MemoryNetwork:
    """The network as one host sees it; :meth:`at` gives the view of another host of the same network."""

    def __init__(self, host: str = "localhost") -> None:
        self.host = host
        self._listeners: dict[str, Callable[[], asyncio.Protocol]] = {}
        self._faults: dict[frozenset[str], Faults] = {}
        self._ports = itertools.count(49152)

    def at(self, host: str) -> MemoryNetwork:
        view = MemoryNetwork(host)
        view._listeners, view._faults, view._ports = self._listeners, self._faults, self._ports
        return view

    def faults(self, host: str, other: str | None = None) -> Faults:
        """The state of the link between two hosts; ``other`` is this network's own host if not given."""
        return self._faults.setdefault(frozenset({host, other or self.host}), Faults())

    async def connect(self, address: str, protocol_factory: Callable[[], P], timeout: float) -> P:
        host, _ = split_address(address)
        faults = self.faults(host)
        try:
            async with asyncio.timeout(timeout):
                await asyncio.sleep(faults.delay)
                await faults.reachable.wait()
        except TimeoutError as error:
            raise WorkerLost(f"{address} did not answer within {timeout} s") from error
        accept = self._listeners.get(address)
        if accept is None or faults.refused:
            raise WorkerLost(f"cannot connect to {address}: Connection refused")
        protocol, accepted = protocol_factory(), accept()
        here = _MemoryTransport(
            protocol, faults, sockname=(self.host, next(self._ports)), peername=split_address(address)
        )
        there = _MemoryTransport(accepted, faults, sockname=here.peername, peername=here.sockname)
        here.join(there)
        asyncio.get_running_loop().call_soon(accepted.connection_made, there)
        protocol.connection_made(here)
        return protocol

    async def listen(self, address: str, protocol_factory: Callable[[], asyncio.Protocol]) -> Listener:
        host, port = split_address(address)
        address = join_address(host, port or next(self._ports))
        if address in self._listeners:
            raise ConfigError(f"cannot listen on {address}: Address already in use")
        self._listeners[address] = protocol_factory
        return _MemoryListener(address, self._listeners)


class _MemoryListener:
    def __init__(self, address: str, listeners: dict[str, Callable[[], asyncio.Protocol]]) -> None:
        self.address = address
        self._listeners = listeners

    def close(self) -> None:
        self._listeners.pop(self.address, None)


class _MemoryTransport(asyncio.Transport):
    """One end of a connection, and the bytes on their way to the other end."""

    def __init__(
        self,
        protocol: asyncio.BaseProtocol,
        faults: Faults,
        *,
        sockname: tuple[str, int],
        peername: tuple[str, int],
    ) -> None:
        super().__init__({"sockname": sockname, "peername": peername})
        self.sockname, self.peername = sockname, peername
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        self._faults = faults
        self._other: _MemoryTransport
        self._way: collections.deque[tuple[float, bytes | None]] = collections.deque()  # arrival, bytes; None: the end
        self._size = 0  # bytes on the way
        self._delivery: asyncio.Handle | None = None
        self._high, self._low = HIGH_WATER, LOW_WATER
        self._paused = False  # the protocol was asked to write nothing
        self._reading = True
        self._closing = False
        self._lost = False

    def join(self, other: _MemoryTransport) -> None:
        self._other, other._other = other, self
        self._faults.ends |= {self, other}

    # -- the interface of a transport

    def write(self, data: Any) -> None:
        if self._closing or not data:
            return
        data = bytes(data)
        if self._faults.tamper is not None:
            data = self._faults.tamper(data)
        self._size += len(data)
        self._way.append((self._loop.time() + self._faults.delay, data))
        if self._size > self._high and not self._paused:
            self._paused = True
            self._protocol.pause_writing()
        self.deliver_soon()

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._way.append((self._loop.time() + self._faults.delay, None))
        self.deliver_soon()
        self._end_when_written()

    def abort(self) -> None:
        if self._lost:
            return
        self._closing = True
        self._forget()
        self._way.append((self._loop.time() + self._faults.delay, None))
        self.deliver_soon()
        self._lose(None)

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        self._other.deliver_soon()

    def is_reading(self) -> bool:
        return self._reading and not self._closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = HIGH_WATER if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_size(self) -> int:
        return self._size

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def can_write_eof(self) -> bool:
        return False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    # -- the way to the other end

    def deliver_soon(self) -> None:
        if self._way and self._delivery is None and self._is_clear():
            self._delivery = self._loop.call_at(self._way[0][0], self._deliver)

    def _is_clear(self) -> bool:
        return not self._faults.stalled and (self._other._reading or self._other._closing)

    def _deliver(self) -> None:
        self._delivery = None
        while self._way and self._is_clear() and self._way[0][0] <= self._loop.time():
            _, data = self._way.popleft()
            if data is None:
                self._other.end_came()
            else:
                self._size -= len(data)
                self._other.data_came(data)
        self.deliver_soon()
        if self._paused and self._size <= self._low:
            self._paused = False
            self._protocol.resume_writing()
        self._end_when_written()
        if self._lost and not self._way:
            self._faults.ends.discard(self)

    def data_came(self, data: Buffer) -> None:
        if not self._closing:
            protocol = self._protocol
            assert isinstance(protocol, asyncio.Protocol)
            protocol.data_received(bytes(data))

    def end_came(self) -> None:
        if not self._closing:
            self.close()

    # -- the end

    def _end_when_written(self) -> None:
        # What is below the mark would be in the kernel's buffer by now and reach the other end without us.
        if self._closing and self._size <= self._high:
            self._lose(None)

    def break_off(self, error: Exception) -> None:
        """The connection is no more; what was on its way is lost."""
        self._forget()
        self._faults.ends.discard(self)
        self._lose(error)

    def _lose(self, error: Exception | None) -> None:
        if self._lost:
            return
        self._lost = self._closing = True
        self._loop.call_soon(self._protocol.connection_lost, error)

    def _forget(self) -> None:
        self._way.clear()
        self._size = 0
