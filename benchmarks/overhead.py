"""What Shoal adds to an echo: `python benchmarks/overhead.py`.

`wrk` asks an identity model with 200 bytes of JSON through a coordinator and one worker process, and in turn a bare
ASGI callable that gives the same body back, under uvicorn with the same settings. Printed are the requests a second as
a ratio, and the CPU time a request takes in each process, which what else runs on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import uvicorn

CONNECTIONS = 32
BODY_BYTES = 200
PATH = "/v2/models/echo/infer"
READY = 60.0  # seconds


@dataclass(frozen=True)
class Server:
    """Processes under load, by what each of them does."""

    address: str
    processes: dict[str, psutil.Process]

    def cpu_seconds(self) -> dict[str, float]:
        return {name: sum(process.cpu_times()[:2]) for name, process in self.processes.items()}


@dataclass(frozen=True)
class Round:
    rate: float  # requests a second
    p50: float  # milliseconds
    p99: float
    cpu: dict[str, float]  # microseconds a request, by process


# -- the servers


async def bare_echo(scope: Any, receive: Any, send: Any) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def serve_bare(port: int) -> None:
    """With what Shoal's own listener sets."""
    uvicorn.run(
        bare_echo,
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )


@contextlib.contextmanager
def bare() -> Iterator[Server]:
    port = free_port()
    with started([sys.executable, __file__, "--serve-bare", str(port)]) as process:
        address = f"http://127.0.0.1:{port}"
        wait_until_ready(address + PATH)
        yield Server(address, {"bare echo": psutil.Process(process.pid)})


@contextlib.contextmanager
def shoal(folder: Path, settings: str) -> Iterator[Server]:
    """One command, so a coordinator and a worker that is its child."""
    port = free_port()
    file = folder / "config.yaml"
    file.write_text(f"models: {{echo: {{uri: echo, {settings}}}}}\n")
    command = [sys.executable, "-m", "shoal", "serve", "--workers", "1", "--config", str(file)]
    with started([*command, "--listen-port", str(port)]) as process:
        address = f"http://127.0.0.1:{port}"
        wait_until_ready(address + "/health/ready")
        coordinator = psutil.Process(process.pid)
        (worker,) = coordinator.children()
        yield Server(address, {"coordinator": coordinator, "worker": worker})


@contextlib.contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_until_ready(url: str) -> None:
    until = time.monotonic() + READY
    while time.monotonic() < until:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"{url} did not become ready within {READY:g} s")


# -- the load


def request_body() -> bytes:
    """An inference request of as many bytes as promised."""
    numbers: list[float] = []
    while True:
        tensor = {"name": "input", "datatype": "FP32", "shape": [len(numbers)], "data": numbers}
        body = json.dumps({"inputs": [tensor], "id": ""}).encode()
        if len(body) > BODY_BYTES - 5:
            return body[:-2] + b"x" * (BODY_BYTES - len(body)) + body[-2:]
        numbers.append(len(numbers) + 0.5)


def check(server: Server, body: bytes) -> None:
    """A fast wrong answer is an error, not a result."""
    asked = urllib.request.Request(server.address + PATH, body, {"content-type": "application/json"})
    with urllib.request.urlopen(asked, timeout=10) as response:
        answer = json.load(response)
    sent = json.loads(body)
    (tensor,) = answer.get("outputs") or answer["inputs"]
    if tensor["data"] != sent["inputs"][0]["data"] or answer["id"] != sent["id"]:
        raise SystemExit(f"{server.address} gave a wrong answer: {answer}")


def load(server: Server, script: Path, seconds: float) -> Round:
    before = server.cpu_seconds()
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "-s", str(script), server.address + PATH]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    after = server.cpu_seconds()
    count, microseconds, p50, p99, wrong = map(float, re.findall(r"^result: (.*)$", printed, re.MULTILINE)[0].split())
    if wrong:
        raise SystemExit(f"{server.address}: {wrong:.0f} requests went wrong")
    cpu = {name: (after[name] - before[name]) / count * 1e6 for name in before}
    return Round(count / microseconds * 1e6, p50 / 1000, p99 / 1000, cpu)


def script(body: bytes) -> str:
    return f"""
wrk.method = "POST"
wrk.body = [[{body.decode()}]]
wrk.headers["Content-Type"] = "application/json"
function done(summary, latency)
  local e = summary.errors
  print(string.format("result: %d %d %d %d %d", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def show(what: str, values: list[float], digits: int = 0) -> None:
    least, most = min(values), max(values)
    print(f"{what:38} {statistics.median(values):9.{digits}f}  ({least:.{digits}f} to {most:.{digits}f})")


def compare(rounds: int, seconds: float, settings: str) -> None:
    body = request_body()
    with TemporaryDirectory() as folder, bare() as plain, shoal(Path(folder), settings) as full:
        file = Path(folder) / "load.lua"
        file.write_text(script(body))
        for server in (plain, full):
            check(server, body)
            load(server, file, seconds)  # warms up
        pairs = [(load(plain, file, seconds), load(full, file, seconds)) for _ in range(rounds)]
    show("requests/s, bare echo", [one.rate for one, _ in pairs])
    show("requests/s, Shoal", [two.rate for _, two in pairs])
    show("ratio", [two.rate / one.rate for one, two in pairs], 3)
    show("p50, p99 of the bare echo, ms", [one.p50 for one, _ in pairs], 2)
    show("", [one.p99 for one, _ in pairs], 2)
    show("p50, p99 of Shoal, ms", [two.p50 for _, two in pairs], 2)
    show("", [two.p99 for _, two in pairs], 2)
    show("CPU µs a request, bare echo", [one.cpu["bare echo"] for one, _ in pairs], 1)
    for name in full.processes:
        show(f"CPU µs a request, {name}", [two.cpu[name] for _, two in pairs], 1)
    show("bare echo : coordinator, by CPU", [one.cpu["bare echo"] / two.cpu["coordinator"] for one, two in pairs], 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one run")
    parser.add_argument("--settings", default="", help="of the model, as in the configuration: 'coalesce: true'")
    parser.add_argument("--serve-bare", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_bare:
        serve_bare(options.serve_bare)
        return
    print(f"{CONNECTIONS} connections, {len(os.sched_getaffinity(0))} cores, load before: {os.getloadavg()[0]:.2f}")
    compare(options.rounds, options.seconds, options.settings)


if __name__ == "__main__":
    main()
