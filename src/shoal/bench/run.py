"""Send the load and write down what comes."""

from __future__ import annotations

import asyncio
import os
import platform
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from time import perf_counter  # the clock of uvloop's loop has steps of a millisecond
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import psutil

from shoal.aio import Tasks
from shoal.bench.http import HttpConnection
from shoal.bench.load import MAX_IN_FLIGHT, Closed, Load, Open, TraceItem
from shoal.bench.record import Record, Run
from shoal.bench.scenario import Scenario, Sizes, encode
from shoal.bench.stream import read_stream
from shoal.errors import ShoalError


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to measure."""

    url: str
    scenario_name: str
    scenario: Scenario
    model: str
    sizes: Sizes
    load: Load
    warm_up: float = 2.0  # seconds whose requests do not count
    timeout: float = 120.0  # seconds for one request
    seed: int = 0


MAX_MESSAGE: Final = 300  # characters of what a server says is wrong


async def run(plan: Plan, progress: Callable[[float], None] = lambda _share: None) -> Run:
    """Measure. ``progress`` is called now and then with the share that is done, 0 to 1."""
    bench = _Bench(plan)
    cpu, began = time.process_time(), perf_counter()
    watching = Tasks()
    watching.start(bench.tell(progress), name="progress")
    try:
        records = await bench.measure()
    finally:
        await watching.close()
    return Run(
        scenario=plan.scenario_name,
        load=str(plan.load),
        url=plan.url,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        duration=max((record.ended for record in records), default=0.0),
        machine=_machine(),
        generator_busy=(time.process_time() - cpu) / max(perf_counter() - began, 1e-9),
        records=tuple(records),
    )


class _Bench:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._url = urlsplit(plan.url)
        self._path = plan.scenario.path.format(model=plan.model)
        self._chance = random.Random(plan.seed)
        self._began = perf_counter()
        self._number = 0
        self._idle: list[HttpConnection] = []
        self._total = plan.warm_up + plan.load.duration

    async def tell(self, progress: Callable[[float], None]) -> None:
        while True:
            progress(min(1.0, (perf_counter() - self._began) / self._total))
            await asyncio.sleep(0.2)

    async def measure(self) -> list[Record]:
        """Warm up with the same load, then begin to count."""
        plan, load = self._plan, self._plan.load
        try:
            if plan.warm_up > 0:
                warm = (
                    replace(load, duration=plan.warm_up)
                    if isinstance(load, (Closed, Open))
                    else Closed(4, plan.warm_up)
                )
                await self._send(warm)
            return await self._send(load)
        finally:
            for connection in self._idle:
                connection.close()

    async def _send(self, load: Load) -> list[Record]:
        origin = perf_counter()
        if isinstance(load, Closed):
            clients = [self._client(origin, load.duration) for _ in range(load.clients)]
            return [record for records in await asyncio.gather(*clients) for record in records]
        if isinstance(load, Open):
            return await self._open(origin, ((at, None) for at in load.arrivals(self._chance)))
        return await self._open(origin, ((item.at, item) for item in load.items))

    async def _client(self, origin: float, duration: float) -> list[Record]:
        records: list[Record] = []
        while (at := perf_counter() - origin) < duration:
            records.append(await self._one(origin, at, None))
        return records

    async def _open(self, origin: float, arrivals: Iterable[tuple[float, TraceItem | None]]) -> list[Record]:
        room = asyncio.Semaphore(MAX_IN_FLIGHT)
        sent: list[asyncio.Task[Record]] = []

        async def send(due: float, item: TraceItem | None) -> Record:
            try:
                return await self._one(origin, due, item)
            finally:
                room.release()

        for due, item in arrivals:
            await asyncio.sleep(max(0.0, origin + due - perf_counter()))
            await room.acquire()
            sent.append(asyncio.create_task(send(due, item), name="request"))
        return list(await asyncio.gather(*sent))

    async def _one(self, origin: float, due: float, item: TraceItem | None) -> Record:
        plan, sizes = self._plan, _sized(self._plan.sizes, item)
        number, self._number = self._number, self._number + 1
        body = encode(plan.scenario, plan.model, number + plan.seed * 1_000_003, sizes)
        connection = self._idle.pop() if self._idle else HttpConnection(self._url)
        sent = perf_counter() - origin
        try:
            status = await connection.post(self._path, body, plan.timeout)
        except (OSError, TimeoutError, ShoalError) as error:
            outcome = error.code if isinstance(error, ShoalError) else type(error).__name__
            return Record(due, sent, perf_counter() - origin, outcome)
        ended = perf_counter() - origin
        self._idle.append(connection)
        return _record(plan.scenario, sizes, connection, status, origin, due, sent, ended)


def _record(
    scenario: Scenario,
    sizes: Sizes,
    connection: HttpConnection,
    status: int,
    origin: float,
    due: float,
    sent: float,
    ended: float,
) -> Record:
    if status != 200:
        return Record(due, sent, ended, str(status), message=_said(bytes(connection.body)))
    try:
        return _read(scenario, sizes, connection, origin, due, sent, ended)
    except (msgspec.DecodeError, KeyError, IndexError, TypeError, AttributeError):
        return Record(due, sent, ended, "unreadable_answer")


def _read(
    scenario: Scenario, sizes: Sizes, connection: HttpConnection, origin: float, due: float, sent: float, ended: float
) -> Record:
    body = bytes(connection.body)
    if not scenario.streams:
        right = scenario.check(msgspec.json.decode(body), sizes)
        return Record(due, sent, ended, "ok" if right else "wrong_answer")
    outcome, times, usage = read_stream(body, connection.parts)
    return Record(
        due,
        sent,
        ended,
        outcome,
        times[0] - origin if times else None,
        tuple(after - before for before, after in pairwise(times)),
        usage.get("completion_tokens", 0),
        usage.get("prompt_tokens", 0),
        (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
    )


def _said(body: bytes) -> str:
    """The message of an error, in OpenAI's shape or the Open Inference Protocol's."""
    try:
        error = msgspec.json.decode(body)["error"]
        return str(error["message"] if isinstance(error, dict) else error)[:MAX_MESSAGE]
    except (msgspec.DecodeError, KeyError, TypeError):
        return body[:MAX_MESSAGE].decode(errors="replace")


def _sized(sizes: Sizes, item: TraceItem | None) -> Sizes:
    if item is None:
        return sizes
    return replace(
        sizes,
        prompt_tokens=item.prompt_tokens or sizes.prompt_tokens,
        max_tokens=item.max_tokens or sizes.max_tokens,
    )


def _machine() -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }
