"""Ask a server as fast as it answers: with ``wrk`` where it is installed, which costs least, else from Python."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import numpy as np

from rivals.entrant import Figures, Server, Wrong
from rivals.questions import FIRST, Questions
from shoal.bench.http import HttpConnection
from shoal.errors import ShoalError

SCRIPT = Path(__file__).parent / "wrk.lua"
ANSWER_WITHIN = 30.0  # seconds
_BLOCKS = itertools.cycle(range(2, 10))  # each load has ten million numbers of its own


class Heard(msgspec.Struct, frozen=True):
    """What came of a load. Times in seconds."""

    requests: int
    seconds: float
    bytes: int
    failed: int
    p50: float
    p99: float


def press(url: str, server: Server, questions: Questions, *, clients: int, seconds: float) -> Heard:
    """Raises :class:`Wrong` if any was not answered well. No server is asked a question twice."""
    send = _with_wrk if shutil.which("wrk") else _with_python
    heard = send(url, server, questions, clients, seconds, next(_BLOCKS) * FIRST)
    if heard.failed:
        raise Wrong(f"{heard.failed} of {heard.requests} requests failed under load")
    return heard


def figures(heard: Heard) -> Figures:
    """Raises :class:`Wrong` where nothing was answered in the time."""
    if not heard.requests:
        raise Wrong(f"no answer within {heard.seconds:.0f} s under load")
    return Figures(rate=heard.requests / heard.seconds, p50=heard.p50, p99=heard.p99)


def _with_wrk(url: str, server: Server, questions: Questions, clients: int, seconds: float, first: int) -> Heard:
    head, tail = questions.template(server)
    spelling = f"{questions.joiner}\n{' '.join(questions.digits)}\n".encode()
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:.0f}s", f"--timeout={ANSWER_WITHIN:.0f}s", "--latency"]
    with tempfile.NamedTemporaryFile() as template:
        template.write(head + b"\n" + tail + b"\n" + spelling)
        template.flush()
        command += ["-s", str(SCRIPT), url + server.path, "--", template.name, str(first)]
        done = subprocess.run(command, capture_output=True, timeout=seconds + 2 * ANSWER_WITHIN, check=True)
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Heard)


def _with_python(url: str, server: Server, questions: Questions, clients: int, seconds: float, first: int) -> Heard:
    numbers = itertools.count(first + 1)
    latencies: list[float] = []
    failed = size = 0
    head, tail = questions.template(server)

    async def client() -> None:
        nonlocal failed, size
        connection = HttpConnection(urlsplit(url))
        while time.perf_counter() < until:
            began = time.perf_counter()
            body = head + questions.spell(next(numbers)).encode() + tail
            try:
                failed += await connection.post(server.path, body, ANSWER_WITHIN) != 200
            except (OSError, TimeoutError, ShoalError):
                failed += 1
            latencies.append(time.perf_counter() - began)
            size += len(connection.body)
        connection.close()

    async def all_clients() -> None:
        await asyncio.gather(*(client() for _ in range(clients)))

    began = time.perf_counter()
    until = began + seconds
    asyncio.run(all_clients())
    p50, p99 = (float(value) for value in np.quantile(latencies, (0.5, 0.99)))
    return Heard(len(latencies), time.perf_counter() - began, size, failed, p50, p99)


def check(url: str, server: Server, questions: Questions, clients: int, count: int) -> None:
    """Are answers right, also in company? Raises :class:`Wrong`, OSError, TimeoutError, ShoalError."""
    answered = asyncio.run(_answers(url, server, questions, clients, range(FIRST, FIRST + count)))
    if not questions.right(range(FIRST, FIRST + count), answered):
        raise Wrong(f"not what was asked for: {str(answered[0])[:200]}")


async def _answers(url: str, server: Server, questions: Questions, clients: int, numbers: range) -> list[object]:
    found: dict[int, object] = {}
    left = iter(numbers)

    async def client() -> None:
        connection = HttpConnection(urlsplit(url))
        for number in left:
            status = await connection.post(server.path, questions.body(server, number), ANSWER_WITHIN)
            body = bytes(connection.body)
            if status != 200:
                raise Wrong(f"status {status}: {body[:200].decode(errors='replace')}")
            try:
                found[number] = server.read(msgspec.json.decode(body))
            except (msgspec.DecodeError, KeyError, IndexError, TypeError) as error:
                raise Wrong(f"{error!r} in {body[:200].decode(errors='replace')}") from error
        connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return [found[number] for number in numbers]
