"""Connections over real sockets."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import textwrap
from typing import Any, cast

import numpy as np
import pytest

from shoal.errors import DeadlineExceeded, ProtocolError, WorkerLost
from shoal.messages import Ack, Chunk, Drain, Infer, Inferred, ListModels, Message
from shoal.rpc import Call, Connection, Dialer, Hello, Server, TcpNetwork, adopt, connect
from shoal.rpc.protocol import WireProtocol
from shoal.types import ModelName, RequestId

CLIENT, SERVER = Hello("client", "test"), Hello("worker", "w1")
ANY_PORT = "127.0.0.1:0"


async def serve_all(message: Message, call: Call) -> None:
    match message:
        case Infer():
            await call.send(Inferred(message.inputs))
        case Drain():
            await asyncio.sleep(message.timeout)
            await call.send(Ack())
        case _:
            for number in range(300):
                await call.send(Chunk(str(number), (number,)))


class Served:
    """A server and a connection to it."""

    async def __aenter__(self) -> Connection:
        self.server = Server(hello=SERVER, handler=serve_all)
        self.address = await self.server.listen(TcpNetwork(), ANY_PORT)
        self.connection = await connect(TcpNetwork(), self.address, hello=CLIENT)
        return self.connection

    async def __aexit__(self, *_: object) -> None:
        await self.connection.close()
        await self.server.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_calls_streams_and_cancels_share_a_connection() -> None:
    async def read(connection: Connection) -> int:
        async with connection.stream(ListModels(), timeout=30) as answers:
            return len([answer async for answer in answers])

    async def leave_early(connection: Connection) -> int:
        async with connection.stream(ListModels(), timeout=30) as answers:
            await anext(answers)
        return 300

    async with Served() as connection:
        reads = [read(connection) for _ in range(50)] + [leave_early(connection) for _ in range(50)]
        assert await asyncio.gather(*reads) == [300] * 100
        with pytest.raises(DeadlineExceeded):
            await connection.call(Drain(60.0), timeout=0.05)


@pytest.mark.parametrize("size", [1, 1000, 5_000_000], ids="{} floats".format)
async def test_tensors_of_any_size_come_back_aligned(size: int) -> None:
    array = np.arange(size, dtype=np.float32)
    async with Served() as connection:
        request = Infer(RequestId("r"), ModelName("echo"), {"x": array, "y": array[:1]})
        answer = await connection.call(request, timeout=30)
    assert isinstance(answer, Inferred)
    np.testing.assert_array_equal(answer.outputs["x"], array)
    assert answer.outputs["x"].flags.aligned
    assert answer.outputs["y"].flags.aligned


async def test_large_tensors_in_both_directions_at_once_do_not_lock_up() -> None:
    array = np.zeros(2_000_000, dtype=np.float64)
    async with Served() as connection:
        requests = [Infer(RequestId(str(n)), ModelName("echo"), {"x": array}) for n in range(8)]
        answers = await asyncio.gather(*(connection.call(request, timeout=60) for request in requests))
    assert all(isinstance(answer, Inferred) and len(answer.outputs["x"]) == 2_000_000 for answer in answers)


async def test_small_frames_are_not_held_back_by_nagle() -> None:
    async with Served() as connection:
        sock = cast(asyncio.Transport, connection._transport).get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


async def test_another_protocol_on_the_port_is_turned_away() -> None:
    server = Server(hello=SERVER, handler=serve_all)
    host, _, port = (await server.listen(TcpNetwork(), ANY_PORT)).rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"does not speak" not in await asyncio.wait_for(reader.read(), 5)
    writer.close()
    await writer.wait_closed()
    await server.close()


async def test_a_shared_port_can_hand_a_connection_over_after_its_first_byte() -> None:
    server = Server(hello=SERVER, handler=serve_all)

    class Sniffer(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast(asyncio.Transport, transport)

        def data_received(self, data: bytes) -> None:
            assert data[0] == 0
            connection = server.accept()
            self.transport.set_protocol(connection)
            connection.connection_made(self.transport)
            connection.data_received(data)

    listener = await TcpNetwork().listen(ANY_PORT, Sniffer)
    connection = await connect(TcpNetwork(), listener.address, hello=CLIENT)
    assert await connection.call(Drain(0.0), timeout=5) == Ack()
    await connection.close()
    await server.close()
    listener.close()


async def test_both_ends_of_a_socket_pair_ask() -> None:
    ours, theirs = socket.socketpair()
    worker = await adopt(ours, hello=SERVER, handler=serve_all)
    engine = await adopt(theirs, hello=Hello("engine", "e1"), handler=serve_all)
    await asyncio.gather(worker.ready(5), engine.ready(5))
    calls = [end.call(Drain(0.01), timeout=5) for end in (worker, engine) for _ in range(5)]
    assert await asyncio.gather(*calls) == [Ack()] * 10
    await worker.close()
    await engine.wait_closed()


async def test_two_ends_that_both_dialled_notice() -> None:
    ours, theirs = socket.socketpair()
    one, other = [await adopt(end, hello=SERVER, handler=serve_all) for end in (ours, theirs)]
    await asyncio.gather(one.ready(5), other.ready(5))
    with pytest.raises(WorkerLost, match="RECEIVE_OPEN"):
        await one.call(Drain(0.01), timeout=5)
    await asyncio.gather(one.wait_closed(), other.wait_closed())


CHILD = """
    import asyncio, os, socket, sys
    from shoal.messages import Ack
    from shoal.rpc import Hello, adopt

    async def handle(message, call):
        if message.timeout:
            os._exit(1)
        await call.send(Ack())

    async def main():
        connection = await adopt(
            socket.socket(fileno=int(sys.argv[1])), hello=Hello("engine", "child"), handler=handle
        )
        await connection.wait_closed()

    asyncio.run(main())
"""


async def test_a_child_process_is_asked_and_its_death_is_noticed() -> None:
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(theirs.fileno())]
    with theirs, subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL) as child:  # noqa: ASYNC220
        theirs.close()
        connection = await adopt(ours, hello=SERVER)
        await connection.ready(30)
        assert connection.peer.node_id == "child"
        assert await connection.call(Drain(0.0), timeout=5) == Ack()
        with pytest.raises(WorkerLost, match="engine child"):
            await connection.call(Drain(1.0), timeout=5)
        await connection.wait_closed()
        assert child.wait(10) != 0


async def test_a_dialer_finds_a_server_that_comes_back() -> None:
    server = Server(hello=SERVER, handler=serve_all)
    address = await server.listen(TcpNetwork(), ANY_PORT)
    connected: asyncio.Queue[Connection] = asyncio.Queue()
    dialer = Dialer(TcpNetwork(), address, hello=CLIENT, on_connected=connected.put)
    dialer.start()
    await asyncio.wait_for(connected.get(), 5)
    await server.close()
    again = Server(hello=Hello("worker", "w2"), handler=serve_all)
    await again.listen(TcpNetwork(), address)
    connection = await asyncio.wait_for(connected.get(), 5)
    assert connection.peer.node_id == "w2"
    await dialer.close()
    await again.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_noise_on_the_port_harms_no_other_connection() -> None:
    generator = np.random.default_rng(7)
    async with (served := Served()) as connection:
        host, _, port = served.address.rpartition(":")
        good: Any = b"".join(WireProtocol(CLIENT, dials=True).begin())
        for start in (b"", good, good[:9]):
            for _ in range(10):
                _, writer = await asyncio.open_connection(host, int(port))
                writer.write(start + generator.bytes(2000))
                writer.close()
                await writer.wait_closed()
        assert await connection.call(Drain(0.0), timeout=5) == Ack()


async def test_a_hello_to_nobody_who_speaks_shoal() -> None:
    async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(http, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with pytest.raises(ProtocolError, match="does not speak"):
        await connect(TcpNetwork(), address, hello=CLIENT)
    server.close()
    await server.wait_closed()
