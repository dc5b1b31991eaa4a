"""What the response cache costs a request that misses and saves one that hits: `python benchmarks/response_cache.py`.

One process: a coordinator and a worker over rpc in memory, and an instant model, so that nothing hides the cost. The
same requests go through the same coordinator to models that differ in their configuration alone, in turn. Rates are per
second of this process's CPU time, which what else runs on the machine disturbs least. With `--http`, real processes
serve MiniLM.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import uvloop
from instant import CLIENTS, rate, served

from shoal.config import CacheConfig, ModelConfig, ResponseCacheConfig
from shoal.types import ModelKind

HTTP_CLIENTS = 8
PORT = 9951
OFF = ModelConfig()
CACHE = ModelConfig(cache=ResponseCacheConfig())
COALESCE = ModelConfig(coalesce=True)
BOTH = ModelConfig(cache=ResponseCacheConfig(), coalesce=True)
SETTINGS = {"off": OFF, "off again": OFF, "cache": CACHE, "coalesce": COALESCE, "both": BOTH}


async def compare(kind: ModelKind, cache: CacheConfig, rounds: int, count: int) -> None:
    async with served(SETTINGS, cache) as (plane, models):
        fresh = itertools.count()
        rates: dict[str, list[float]] = {name: [] for name in SETTINGS}
        for round_number in range(rounds + 1):
            # Each is measured first as often as last.
            names = list(SETTINGS) if round_number % 2 else list(reversed(SETTINGS))
            for name in names:
                measured = await rate(plane, models[f"{kind} {name}"], fresh, count)
                if round_number:  # the first warms up
                    rates[name].append(measured)
        base = statistics.median(rates["off"])
        print(f"{kind}, misses only: off {base:.0f} requests a second of CPU, {1e6 / base:.0f} µs each")
        for name in list(SETTINGS)[1:]:
            show(f"  {name} : off", [a / b for a, b in zip(rates[name], rates["off"], strict=True)])
            more = [1e6 / a - 1e6 / b for a, b in zip(rates[name], rates["off"], strict=True)]
            print(f"    that is {statistics.median(more):+.0f} µs a request")
        assert all(model.called == count * (rounds + 1) for name, model in models.items() if name.startswith(kind))
        hits = [await rate(plane, models[f"{kind} both"], itertools.repeat(0), count) for _ in range(rounds)]
        called = models[f"{kind} both"].called
        show("  hits : misses", [a / b for a, b in zip(hits, rates["both"], strict=True)])
        assert models[f"{kind} both"].called == called <= count * (rounds + 1) + 1


SERVED = """
models:
  "off": {uri: minilm}
  "off-again": {uri: minilm}
  both: {uri: minilm, cache: {}, coalesce: true}
"""


async def over_http(address: str, rounds: int, count: int) -> None:
    fresh = itertools.count()
    rates: dict[str, list[float]] = {"off": [], "off-again": [], "both": []}
    async with httpx.AsyncClient(base_url=address, timeout=60) as http:

        async def client(model: str, cache: str | None) -> None:
            for number in itertools.islice(fresh, count // HTTP_CLIENTS):
                body = {"model": model, "input": f"How many fish are {number} fish, and how many are not?"}
                answer = await http.post("/v1/embeddings", json=body)
                answer.raise_for_status()
                assert answer.headers.get("x-cache") == cache

        for round_number in range(rounds + 1):
            names = list(rates) if round_number % 2 else list(reversed(rates))
            for name in names:
                began = time.perf_counter()
                await asyncio.gather(*(client(name, "miss" if name == "both" else None) for _ in range(HTTP_CLIENTS)))
                if round_number:
                    rates[name].append(count / (time.perf_counter() - began))
    print(
        f"MiniLM over HTTP, {HTTP_CLIENTS} clients, misses only: off {statistics.median(rates['off']):.0f} requests/s"
    )
    for name in ("off-again", "both"):
        show(f"  {name} : off", [a / b for a, b in zip(rates[name], rates["off"], strict=True)])


def serve_and_compare(rounds: int, count: int) -> None:
    """One server of one worker, which has the same model three times."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(SERVED)
        command = [sys.executable, "-m", "shoal", "serve", "--workers", "1", "--listen-port", str(PORT)]
        with subprocess.Popen([*command, "--config", str(file)], stderr=subprocess.DEVNULL) as server:
            try:
                _wait_until_ready(f"http://127.0.0.1:{PORT}/health/ready")
                asyncio.run(over_http(f"http://127.0.0.1:{PORT}", rounds, count))
            finally:
                server.terminate()


def _wait_until_ready(url: str) -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the server did not become ready within a minute")


def show(what: str, ratios: list[float]) -> None:
    print(f"{what}: {statistics.median(ratios):.3f} (lowest {min(ratios):.3f}, highest {max(ratios):.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--count", type=int, default=1600)
    parser.add_argument("--http", action="store_true", help="MiniLM over HTTP with real processes, by the clock")
    parser.add_argument("--disk", action="store_true", help="with the SQLite tier")
    options = parser.parse_args()
    print(f"{CLIENTS} clients, {len(os.sched_getaffinity(0))} cores, load before: {os.getloadavg()[0]:.2f}")
    if options.http:
        serve_and_compare(options.rounds, options.count // 10)
        return
    with TemporaryDirectory() as folder:
        cache = CacheConfig(url=f"sqlite://{Path(folder) / 'cache.db'}" if options.disk else "")
        for kind in (ModelKind.TENSOR, ModelKind.GENERATE):
            count = options.count if kind is ModelKind.TENSOR else options.count // 5
            uvloop.run(compare(kind, cache, options.rounds, count))


if __name__ == "__main__":
    main()
