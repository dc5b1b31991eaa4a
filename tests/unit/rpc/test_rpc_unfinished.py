"""Half frames: they cost their sender the connection before they cost this side its memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from shoal.clock import now
from shoal.errors import ProtocolError
from shoal.messages import Ack, ListModels, Message
from shoal.rpc import Call, Connection, Hello, MemoryNetwork, Server
from shoal.rpc.events import Broken, Ready
from shoal.rpc.frames import HEADER, Frame, FrameReader, FrameType, encode_frame, preface
from shoal.rpc.limits import FRAME_TIMEOUT, KIB, MAX_EARLY_FRAME, MIB, Unfinished
from shoal.rpc.protocol import WireProtocol

ADDRESS = "c1:9000"
CLIENT, COORDINATOR = Hello("client", "x"), Hello("coordinator", "c1")
ASK = ListModels()

HALF = HEADER.pack(100, FrameType.DATA, 0, 1) + bytes(60)
REST = bytes(40)
WHOLE = Frame(FrameType.DATA, 1, bytes(100))


async def acknowledge(_message: Message, call: Call) -> None:
    await call.send(Ack())


def test_half_frames_are_held_of_one_budget_until_they_are_whole() -> None:
    unfinished = Unfinished(100)
    one, other = FrameReader(1000, unfinished), FrameReader(1000, unfinished)
    assert list(one.feed(HALF)) == []
    assert unfinished.held == 60
    with pytest.raises(ProtocolError, match="not whole may hold 100 bytes together"):
        list(other.feed(HALF))
    other.drop()
    assert list(one.feed(REST + HALF + REST)) == [WHOLE, WHOLE]
    assert unfinished.held == 0


def test_a_reader_that_is_done_with_gives_back_what_it_held() -> None:
    unfinished = Unfinished()
    reader = FrameReader(1000, unfinished)
    list(reader.feed(HALF))
    list(reader.feed(bytes(10)))
    assert unfinished.held == 70
    reader.drop()
    assert unfinished.held == 0
    assert not reader.beginning


def test_a_frame_that_begins_has_a_number_of_its_own() -> None:
    def beginnings(*reads: bytes) -> Iterator[int]:
        reader = FrameReader(1000)
        for read in reads:
            list(reader.feed(read))
            yield reader.beginning

    assert list(beginnings(HALF, REST, HALF[:3], HALF[3:], REST + HALF, REST)) == [1, 0, 2, 2, 3, 0]


@pytest.mark.parametrize(("size", "refused"), [(MAX_EARLY_FRAME, False), (MAX_EARLY_FRAME + 1, True)])
def test_a_stranger_may_send_small_frames_alone(size: int, refused: bool) -> None:
    header = HEADER.pack(size, FrameType.OPEN, 0, 1)
    events = WireProtocol(COORDINATOR, dials=False).receive_data(preface() + header)
    assert [isinstance(event, Broken) for event in events] == [True] * refused


def test_who_is_known_may_send_large_frames_in_the_read_that_says_hello() -> None:
    protocol = WireProtocol(COORDINATOR, dials=False)
    hello = b"".join(WireProtocol(CLIENT, dials=True).begin())
    events = protocol.receive_data(hello + HEADER.pack(64 * MIB, FrameType.OPEN, 0, 1))
    assert events == [Ready(CLIENT)]


class Peers:
    """A server, and those who have introduced themselves to it."""

    def __init__(self) -> None:
        self.network = MemoryNetwork("x")
        self.server = Server(hello=COORDINATOR, handler=acknowledge)

    async def connect(self) -> Connection:
        def dial() -> Connection:
            return Connection(hello=CLIENT, dials=True, keepalive=None)  # no pings between the halves of a frame

        connection = await self.network.connect(ADDRESS, dial, timeout=1)
        await connection.ready(1)
        return connection


@pytest.fixture
async def peers() -> Any:
    made = Peers()
    await made.server.listen(made.network.at("c1"), ADDRESS)
    yield made
    await made.server.close()
    assert made.server._unfinished.held == 0


def half_open(size: int, came: int) -> bytes:
    return HEADER.pack(size, FrameType.OPEN, 0, 1) + bytes(came)


Settle = Callable[[], Awaitable[None]]


async def test_the_connection_that_asks_for_too_much_ends_and_others_live(peers: Peers, settle: Settle) -> None:
    peers.server._unfinished.size = MIB
    hostile, honest = [await peers.connect() for _ in range(3)], await peers.connect()
    for connection in hostile:
        connection._writer.write([half_open(64 * MIB, 400 * KIB)])
        await settle()
    assert [connection.is_closed for connection in hostile] == [False, False, True]
    assert peers.server._unfinished.held == 800 * KIB
    assert await honest.call(ASK, timeout=1) == Ack()
    for connection in hostile:
        await connection.close()
    await settle()
    assert peers.server._unfinished.held == 0, "at once, not when the collector comes"


async def test_a_frame_that_drips_is_given_up_though_its_peer_lives(peers: Peers) -> None:
    connection = await peers.connect()
    began = now()
    connection._writer.write([half_open(64 * MIB, 1)])
    while not connection.is_closed:
        connection._writer.write([b"x"])
        await asyncio.sleep(1)
    assert FRAME_TIMEOUT <= now() - began < FRAME_TIMEOUT + 10


async def test_frames_that_each_come_in_time_may_follow_each_other_for_ever(peers: Peers) -> None:
    connection = await peers.connect()
    ping = b"".join(map(bytes, encode_frame(FrameType.PING, 0, [bytes(8)])))
    connection._writer.write([ping[:9]])
    for _ in range(20):
        await asyncio.sleep(4)  # before the server asks for a sign of life
        connection._writer.write([ping[9:] + ping[:9]])
    assert not connection.is_closed
    connection._writer.write([ping[9:]])
    assert await connection.call(ASK, timeout=1) == Ack()
    await connection.close()
