"""The load generator against a server that misbehaves in every way it can."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from shoal.bench import SCENARIOS, Closed, Load, Open, Run, parse_trace, run
from shoal.bench.run import Plan
from shoal.bench.scenario import Sizes

EVENTS = [
    b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}\n\ndata: [DONE]\n\n',
]


class Server:
    """Answers every request as it is told: ``behave`` names how."""

    def __init__(self, behave: str) -> None:
        self.behave = behave
        self.bodies: list[Any] = []
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = re.search(rb"content-length: (\d+)", head)
                assert size is not None
                self.bodies.append(msgspec.json.decode(await reader.readexactly(int(size[1]))))
                await self._answer(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter) -> None:
        if self.behave == "hang_up":
            raise ConnectionError
        if self.behave == "refuse":
            writer.write(b"HTTP/1.1 429 Too Many\r\ncontent-length: 2\r\n\r\n{}")
            return
        if self.behave == "garbage":
            writer.write(b"\x00\x01\x02\r\n\r\n")
            return
        if self.behave == "other_json":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\ndata: [1, 2]\n")
            return
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for event in EVENTS[:1] if self.behave == "cut_short" else EVENTS:
            writer.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")


@asynccontextmanager
async def serving(behave: str) -> AsyncIterator[tuple[Server, str]]:
    server = Server(behave)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    try:
        yield server, f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()


async def measured(url: str, load: Load, *, warm_up: float = 0.0) -> Run:
    scenario = SCENARIOS["chat"]
    sizes = Sizes(prompt_tokens=5, max_tokens=2)
    plan = Plan(
        url=url, scenario_name="chat", scenario=scenario, model="m", sizes=sizes, load=load, warm_up=warm_up, timeout=5
    )
    return await run(plan)


async def test_streams_are_counted_with_their_tokens_and_connections_are_kept() -> None:
    async with serving("well") as (server, url):
        done = await measured(url, Closed(3, 0.2))
    assert len(done.records) > 3
    assert all(record.ok and record.tokens == 2 and record.prompt_tokens == 3 for record in done.records)
    assert all(record.first is not None and record.sent <= record.first <= record.ended for record in done.records)
    assert server.connections == 3


async def test_what_a_server_does_wrong_is_an_outcome_and_not_an_end() -> None:
    outcomes = {}
    for behave in ("hang_up", "refuse", "garbage", "cut_short", "other_json"):
        async with serving(behave) as (_, url):
            done = await measured(url, Closed(1, 0.05))
            outcomes[behave] = {record.outcome for record in done.records}
    assert outcomes == {
        "hang_up": {"connection_broken"},
        "refuse": {"429"},
        "garbage": {"connection_broken"},
        "cut_short": {"unfinished_stream"},
        "other_json": {"unreadable_answer"},
    }


async def test_an_answer_that_is_no_json_is_an_outcome_too() -> None:
    async with serving("other_json") as (_, url):
        plan = Plan(
            url=url,
            scenario_name="infer",
            scenario=SCENARIOS["infer"],
            model="m",
            sizes=Sizes(),
            load=Closed(1, 0.05),
            warm_up=0,
        )
        done = await run(plan)
    assert {record.outcome for record in done.records} == {"unreadable_answer"}
    assert 0 < done.generator_busy <= 1.5


async def test_an_open_load_sends_whether_or_not_answers_come() -> None:
    async with serving("well") as (_, url):
        done = await measured(url, Open(rate=100, duration=0.5), warm_up=0.1)
    assert 25 < len(done.records) < 80
    assert all(record.due <= record.sent for record in done.records)


async def test_a_trace_decides_times_and_sizes() -> None:
    async with serving("well") as (server, url):
        lines = [b'{"at": 0.0, "prompt_tokens": 2}', b'{"at": 0.1, "max_tokens": 9}']
        done = await measured(url, parse_trace(lines))
    assert [record.due for record in done.records] == [0.0, 0.1]
    assert len(server.bodies[0]["messages"][0]["content"].split()) == 2
    assert server.bodies[1]["max_tokens"] == 9
