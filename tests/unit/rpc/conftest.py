"""Two connections over a network in memory, on a clock that jumps: a test that would hang fails at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass

import pytest
import pytest_asyncio

from shoal.clock import ManualClockLoop
from shoal.rpc import Connection, Handler, Hello, Keepalive, MemoryNetwork
from shoal.rpc.limits import Budget
from shoal.rpc.memory import Faults
from shoal.rpc.states import Side

ADDRESS = "w1:9001"


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"manual-clock": ManualClockLoop}


@dataclass
class Pair:
    """``left`` is a coordinator that dialled ``right``, a worker."""

    left: Connection
    right: Connection
    faults: Faults

    def check_nothing_left(self) -> None:
        for connection in (self.left, self.right):
            assert len(connection._outbound) == 0
            assert len(connection._inbound) == 0
            assert len(connection._outbound._deadlines) == 0
            if not connection.is_closed:
                assert connection._protocol.count(Side.OURS) == 0
                assert connection._protocol.count(Side.THEIRS) == 0
                assert connection._inbound._budget._calls == Budget()._calls
                assert connection._inbound._budget._size == Budget()._size


MakePair = Callable[..., Awaitable[Pair]]


@pytest_asyncio.fixture
async def make_pair() -> AsyncIterator[MakePair]:
    """Makes pairs, and checks at the end of the test that they left nothing behind."""
    pairs: list[Pair] = []

    async def make(
        handler: Handler | None = None,
        *,
        left_handler: Handler | None = None,
        keepalive: Keepalive | None = None,
        left_hello: Hello = Hello(role="coordinator", node_id="c1"),  # noqa: B008  (it is frozen)
        right_hello: Hello = Hello(role="worker", node_id="w1"),  # noqa: B008
        budget: Budget | None = None,
    ) -> Pair:
        network = MemoryNetwork("c1")
        accepted: list[Connection] = []

        def accept() -> Connection:
            accepted.append(Connection(hello=right_hello, handler=handler, keepalive=keepalive, budget=budget))
            return accepted[0]

        def dial() -> Connection:
            return Connection(hello=left_hello, handler=left_handler, dials=True, keepalive=keepalive)

        await network.listen(ADDRESS, accept)
        left = await network.connect(ADDRESS, dial, timeout=1)
        pair = Pair(left, accepted[0], network.faults("w1"))
        await left.ready(1)
        await pair.right.ready(1)
        pairs.append(pair)
        return pair

    yield make
    await _let_settle()
    for pair in pairs:
        pair.check_nothing_left()
        await asyncio.gather(pair.left.close(), pair.right.close())
        pair.check_nothing_left()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def _let_settle() -> None:
    await asyncio.sleep(1e-6)  # on this clock time passes only when nothing else can happen


@pytest.fixture
def settle() -> Callable[[], Awaitable[None]]:
    """Let everything happen that needs no time to pass (but for a microsecond)."""
    return _let_settle
