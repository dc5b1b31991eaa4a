"""Where the pauses of answers that were taken up went, and which part of them nobody can save: computing them again.

That part is measured: once the round is over, the same answers are asked for once more, all at once and from where they
were broken off, of the same workers without the one that was struck, which have nothing else to do.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack

from faults.cluster import Cluster
from faults.load import CLIENTS, HUNG, Load, Stream
from faults.spans import DELAY, Pause, pause_of
from faults.verdict import Verdict
from shoal.rpc import Connection, Hello, TcpNetwork, connect


def explain(cluster: Cluster, load: Load, streams: Sequence[Stream], struck: float, verdict: Verdict) -> None:
    """``struck``: in seconds since 1970. Once all is well again."""
    assert cluster.collector is not None
    time.sleep(4 * DELAY)  # the last spans come
    broken: list[tuple[Stream, Pause]] = []
    for stream in streams:
        pause = pause_of(cluster.collector.of(stream.trace), stream.parts, struck)
        if pause is None:
            verdict.others.append(stream.stall)
        else:
            broken.append((stream, pause))
    verdict.pauses += [pause for _, pause in broken]
    if cluster.struck is None or not broken:
        return
    with cluster.without(cluster.struck):
        again = asyncio.run(computed_again(cluster.addresses[0], load, [(one, pause.said) for one, pause in broken]))
    verdict.again += again
    verdict.beyond += [pause.seconds - seconds for (_, pause), seconds in zip(broken, again, strict=True)]


async def computed_again(address: str, load: Load, broken: Sequence[tuple[Stream, int]]) -> list[float]:
    """Seconds until each of these answers goes on behind so many of its tokens, if all are asked for at once."""
    async with AsyncExitStack() as stack:
        connections = []
        for number in range(CLIENTS):
            hello = Hello(role="client", node_id=f"again {number}")
            connections.append(await connect(TcpNetwork(), address, hello=hello))
            stack.push_async_callback(connections[-1].close)
        asked = [
            _until_it_goes_on(connection, load, stream, said)
            for connection, (stream, said) in zip(itertools.cycle(connections), broken, strict=False)
        ]
        return await asyncio.gather(*asked)


async def _until_it_goes_on(connection: Connection, load: Load, stream: Stream, said: int) -> float:
    began = time.monotonic()
    request = load.request(stream.question, output=stream.tokens[:said])
    async with connection.stream(request, timeout=HUNG) as answers:
        await anext(answers)
    return time.monotonic() - began
