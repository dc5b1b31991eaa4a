"""What each step of a request costs: `python benchmarks/request_steps.py`.

Coordinator and worker in one process, over rpc in memory, asked through uvicorn's parser over a transport in memory, so
no socket and no other process hides the cost. Each row puts an instant answer in the place of all that is behind one
step; the difference to the row above is the step. CPU time of this process, in turn, the least of the rounds: what else
runs on the machine only ever adds to it.

With `--only 500` it sends so many whole requests and ends, for a counter of instructions, which no other load disturbs:
`valgrind --tool=cachegrind --cache-sim=no`, once with few and once with many; the difference is the requests.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import itertools
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import uvicorn
import uvloop
from overhead import CONNECTIONS, PATH, bare_echo, request_body
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from shoal.api import build_app
from shoal.api.http1 import Http
from shoal.config import CoordinatorConfig, WorkerConfig
from shoal.coordinator.sender import Sender
from shoal.messages import Infer, Inferred
from shoal.model_registry import ModelSpec, Registry, parse_model_argument
from shoal.node import Coordinator
from shoal.rpc import Connection, MemoryNetwork
from shoal.worker.loading import echo_runtime
from shoal.worker.runtime import ModelRuntime
from shoal.worker.worker import Worker

Ask = Callable[[int], Awaitable[None]]  # so many requests


class Client:
    """The transport of a connection, and who asks on it: again as soon as the answer is whole.

    ``headers`` end each with a line's end; a ``{}`` in them is the request's number.
    """

    def __init__(self, protocol: Any, numbers: Iterator[int], path: str, body: bytes, headers: str) -> None:
        self.ended = asyncio.Event()
        self._protocol = protocol
        self._numbers = numbers
        self._answer = b""
        self._body = body
        self._head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{headers}"
        self._head += f"Content-Length: {len(body)}\r\n\r\n"
        protocol.connection_made(self)

    def ask(self) -> None:
        if (number := next(self._numbers, None)) is None:
            self.ended.set()
        else:
            self._protocol.data_received(self._head.replace("{}", str(number)).encode() + self._body)

    def write(self, data: bytes) -> None:
        self._answer += data
        if self.is_whole(self._answer):
            assert self._answer.startswith(b"HTTP/1.1 200")
            self._answer = b""
            asyncio.get_running_loop().call_soon(self.ask)

    @staticmethod
    def is_whole(answer: bytes) -> bool:
        head, _, body = answer.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        return bool(length) and len(body) == int(length)

    def get_extra_info(self, name: str) -> tuple[str, int] | None:
        return ("127.0.0.1", 9000) if name in {"peername", "sockname"} else None

    def is_closing(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


async def over_http(
    make: Callable[..., Any],
    app: Any,
    count: int,
    *,
    client: type[Client] = Client,
    path: str = PATH,
    body: bytes | None = None,
    headers: str = "",
    connections: int = CONNECTIONS,
) -> None:
    config = uvicorn.Config(
        app, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False, proxy_headers=False
    )
    config.load()
    numbers = iter(range(count))
    sent = request_body() if body is None else body
    clients = [client(make(config, ServerState(), {}), numbers, path, sent, headers) for _ in range(connections)]
    for one in clients:
        one.ask()
    for one in clients:
        await one.ended.wait()


def echo() -> tuple[ModelSpec, ModelRuntime]:
    spec = parse_model_argument("echo")
    return spec, echo_runtime(spec)


@asynccontextmanager
async def fleet(*models: tuple[ModelSpec, ModelRuntime]) -> AsyncGenerator[tuple[Coordinator, Any], None]:
    network, served = MemoryNetwork("coordinator"), models or (echo(),)
    coordinator = Coordinator(CoordinatorConfig(), Registry([spec for spec, _ in served]), network)
    listener = await network.listen("coordinator:9000", coordinator.server.accept)
    coordinator.start()
    config = WorkerConfig(host="worker", coordinators=("coordinator:9000",))
    worker = Worker(config, {runtime.info.part: runtime for _, runtime in served}, network.at("worker"))
    await worker.start()
    while not coordinator.plane.ready():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    yield coordinator, build_app(coordinator.plane, metrics=coordinator.metrics.render, keeper=coordinator.keeper)
    listener.close()
    await worker.stop()
    await coordinator.stop()


async def instant(*arguments: Any, **_: Any) -> Inferred:
    """In the place of whatever takes a request, or what holds one."""
    request = next(found for one in arguments if isinstance(found := getattr(one, "request", one), Infer))
    return Inferred({"output": request.inputs["input"]})


async def measure(rounds: int, count: int) -> None:
    async with fleet() as (coordinator, app):
        shoal = functools.partial(over_http, Http, app)
        steps: list[tuple[str, Ask, tuple[object, str] | None]] = [
            ("uvicorn and a bare echo", functools.partial(over_http, HttpToolsProtocol, bare_echo), None),
            ("HTTP surface: routes, JSON to tensors and back", shoal, (coordinator.plane, "infer")),
            ("data plane: admission, metrics, checks", shoal, (coordinator.responses, "infer")),
            ("dispatch: fallbacks, shards", shoal, (Sender, "infer")),
            ("choosing a worker, retries, health", shoal, (Connection, "first")),
            ("rpc both ways, and the worker", shoal, None),
        ]
        least = dict.fromkeys((name for name, _, _ in steps), float("inf"))
        for _, (name, ask, replaced) in itertools.product(range(rounds), steps):
            with patch.object(*replaced, instant) if replaced else nullcontext():
                began = time.process_time()
                await ask(count)
                least[name] = min(least[name], (time.process_time() - began) / count * 1e6)
    before = 0.0
    print(f"{'step':50} {'µs':>7} {'with all above':>15}")
    for name, value in least.items():
        print(f"{name:50} {value - before:7.1f} {value:15.1f}")
        before = value


async def send_only(count: int) -> None:
    async with fleet() as (_, app):
        await over_http(Http, app, count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--only", type=int, metavar="COUNT", help="no steps: so many whole requests, once")
    options = parser.parse_args()
    uvloop.run(send_only(options.only) if options.only else measure(options.rounds, options.count))


if __name__ == "__main__":
    main()
