"""What the promises cost while nothing fails: `python benchmarks/reliability_cost.py [--rounds 40] [--instructions]`.

Coordinator and worker in one process over transports in memory, asked over HTTP as in `request_steps.py`: a tensor
request of 200 bytes over 32 connections, and 8 streams of 64 tokens from a model that costs nothing. Each row has
something that does nothing in the place of one part (`reliability_parts.py`), and what that saves is the part's cost:
CPU time of this process, with and without in turn (A B B A), the median of the pairs and its quartiles. With
`--instructions` they are counted instead, under valgrind, which no other load disturbs.

The shares are of the whole: of such a request, and of a token of SmolLM2 with its engine's computing, which `--model`
measures here too. Nothing goes through a socket, which would make the whole larger and the shares smaller.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import gc
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import request_steps
import uvloop
from prometheus_client import CollectorRegistry
from reliability_parts import ALL, PARTS, Without, patched, without_all
from request_steps import Client, echo, fleet, over_http

from shoal.api.http1 import Http
from shoal.config import Config, CoordinatorConfig, HedgeConfig, ModelConfig, cache_folder
from shoal.coordinator.watch import Watch
from shoal.engines.base import EngineOptions, LanguageEngine
from shoal.engines.toy import ToyEngine
from shoal.model_registry import ModelSpec
from shoal.model_store import no_progress, pull
from shoal.node import Coordinator
from shoal.telemetry.engine_metrics import EngineMetrics
from shoal.types import ModelKind, ModelName
from shoal.worker.loading import language_runtime
from shoal.worker.runtime import ModelRuntime

STREAMS: Final = 8
TOKENS: Final = 64  # of a stream
PROMPT: Final = 100  # tokens
REQUESTS: Final = 400  # of a round
COUNTED: Final = {"request": (64, 364), "token": (STREAMS, 4 * STREAMS)}  # requests, or streams; the difference counts
IDLE: Final = 5.0  # seconds


# -- what is asked


class Reader(Client):
    """Of a stream."""

    @staticmethod
    def is_whole(answer: bytes) -> bool:
        if not answer.endswith(b"0\r\n\r\n"):
            return False
        assert b"[DONE]" in answer, answer
        return True


def stream_body(model: str) -> bytes:
    prompt = [int(token) for token in np.random.default_rng(0).integers(1, 250, PROMPT)]
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    return json.dumps(body).encode()


async def ask(app: Any, unit: str, count: int, *, model: str = "", headers: str = "") -> None:
    """So many requests or streams."""
    headers = headers.replace("RUN", os.urandom(4).hex())
    if unit == "request":
        path = f"/v2/models/{model or 'echo'}/infer"
        await over_http(Http, app, count, path=path, headers=headers)
    else:
        body = stream_body(model or "toy")
        path = "/v1/completions"
        await over_http(Http, app, count, client=Reader, path=path, body=body, headers=headers, connections=STREAMS)


def language(name: str, engine: LanguageEngine) -> tuple[ModelSpec, ModelRuntime]:
    spec = ModelSpec(name=ModelName(name), kind=ModelKind.GENERATE)
    return spec, language_runtime(spec, engine, print, EngineMetrics(spec.id, CollectorRegistry()))


def hedged() -> tuple[ModelSpec, ModelRuntime]:
    spec, runtime = echo()
    name = ModelName("hedged")
    runtime.info = msgspec.structs.replace(runtime.info, name=name)  # type: ignore[misc]
    return msgspec.structs.replace(spec, name=name, settings=ModelConfig(uri="echo", hedge=HedgeConfig())), runtime


def models() -> list[tuple[ModelSpec, ModelRuntime]]:
    return [echo(), hedged(), language("toy", ToyEngine())]


# -- CPU time

Ask = Callable[[], Awaitable[None]]


async def cpu(work: Ask) -> float:
    """Seconds."""
    gc.collect()
    began = time.process_time()
    await work()
    return time.process_time() - began


class Cost(NamedTuple):
    """Of one unit, as the median of pairs and its quartiles; of instructions there is one count."""

    saved: float
    low: float
    high: float


def cost(saved: list[float]) -> Cost:
    low, middle, high = statistics.quantiles(saved, n=4)
    return Cost(middle, low, high)


async def in_turn(rounds: int, units: int, first: Ask, second: Ask) -> tuple[float, Cost]:
    """What a unit of the first takes, and how much more that is than one of the second. Microseconds."""
    wholes, saved = list[float](), list[float]()
    await first()
    for number in range(rounds):
        if number % 2:
            less, more = await cpu(second), await cpu(first)
        else:
            more, less = await cpu(first), await cpu(second)
        wholes.append(more / units * 1e6)
        saved.append((more - less) / units * 1e6)
    return statistics.median(wholes), cost(saved)


async def measure(rounds: int, model: str) -> None:
    gc.disable()
    async with fleet(*models()) as (coordinator, app):
        for unit, count, units in (("request", REQUESTS, REQUESTS), ("token", STREAMS, STREAMS * TOKENS)):
            plain = functools.partial(ask, app, unit, count)
            whole, table = 0.0, dict[str, Cost]()
            for name, without in {**PARTS, ALL: without_all}.items():
                other = functools.partial(ask_without, without, coordinator, plain)
                whole, table[name] = await in_turn(rounds, units, plain, other)
            print_table(unit, "µs", whole, table, await whole_token(model) if unit == "token" else None)
            extra = {name: more async for name, more in optional(app, unit, rounds, count, units)}
            print_table(unit, "µs", whole, extra)
        seconds = await cpu(functools.partial(asyncio.sleep, IDLE))
        print(f"\nheartbeats, probes, looks at one worker, both sides: {seconds / IDLE:.2%} of a core")


async def ask_without(without: Without, coordinator: Coordinator, plain: Ask) -> None:
    with without(coordinator):
        await plain()


async def optional(app: Any, unit: str, rounds: int, count: int, units: int) -> AsyncGenerator[tuple[str, Cost], None]:
    """What only those pay who ask for it."""
    asked = {"kept for who comes back (last-event-id)": {"headers": "last-event-id: \r\n"}}
    if unit == "request":
        asked = {
            "hedged requests": {"model": "hedged"},
            "an idempotency-key": {"headers": "idempotency-key: RUN-{}\r\n"},
        }
    for name, how in asked.items():
        _, more = await in_turn(
            rounds, units, functools.partial(ask, app, unit, count, **how), functools.partial(ask, app, unit, count)
        )
        yield f"with {name}", more


async def whole_token(model: str) -> float | None:
    """Microseconds of CPU time that a token of a real model takes, its engine's included."""
    if not model:
        return None
    from shoal.engines.openvino import OpenVINOEngine

    options = EngineOptions(len(os.sched_getaffinity(0)), kv_tokens=STREAMS * 512, max_sequences=STREAMS)
    engine = OpenVINOEngine(pull(model, cache_folder(Config()), no_progress), options)
    async with fleet(language("toy", engine)) as (_, app):
        work = functools.partial(ask, app, "token", STREAMS)
        await work()
        return statistics.median([await cpu(work) for _ in range(3)]) / STREAMS / TOKENS * 1e6


def print_table(unit: str, what: str, whole: float, table: dict[str, Cost], real: float | None = None) -> None:
    of_real = f"; with SmolLM2 computing {real:,.0f}" if real else ""
    print(f"\na {unit}: {whole:,.1f} {what}{of_real}")
    for name, (saved, low, high) in table.items():
        share = f"{saved / whole:7.2%}" + (f"  {saved / real:7.3%}" if real else "")
        spread = f"({low:,.2f} to {high:,.2f})" if low != high else ""
        print(f"{name:52} {saved:10,.2f} {spread} {share}")


# -- instructions


async def send_only(unit: str, name: str, count: int) -> None:
    """So many requests or streams, for a counter."""
    variants: dict[str, Without] = {**PARTS, ALL: without_all, "": lambda _: nullcontext()}
    # Under a counter everything takes fifty times as long, and what is done each second would count as often.
    with patched((Watch, "run", never), (request_steps, "CoordinatorConfig", rare_heartbeats)):
        async with fleet(*models()) as (coordinator, app):
            await ask_without(variants[name], coordinator, functools.partial(ask, app, unit, count))


async def never(_: object) -> None:
    await asyncio.Event().wait()


def rare_heartbeats() -> CoordinatorConfig:
    return CoordinatorConfig(heartbeat_interval=3600.0)


def send_in_children() -> None:
    """Each count is a process that begins where this one is, so that starting is counted once."""
    gc.disable()
    for unit, counts in COUNTED.items():
        for name in ("", *PARTS, ALL):
            for count in counts:
                if (child := os.fork()) == 0:
                    uvloop.run(send_only(unit, name, count))
                    os._exit(0)
                os.waitpid(child, 0)
                print(json.dumps([child, unit, name, count]), flush=True)


def count_instructions() -> None:
    with TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=cachegrind", "--cache-sim=no", f"--cachegrind-out-file={folder}/%p"]
        command += [sys.executable, __file__, "--children"]
        run = subprocess.run(
            command, env=os.environ | {"PYTHONHASHSEED": "0"}, stdout=subprocess.PIPE, check=True, text=True
        )
        found: dict[tuple[str, str], list[int]] = {}
        for line in run.stdout.splitlines():
            child, unit, name, _ = json.loads(line)
            summary = re.search(r"^summary: (\d+)", (Path(folder) / str(child)).read_text(), re.MULTILINE)
            assert summary is not None
            found.setdefault((unit, name), []).append(int(summary[1]))
    for unit, (few, many) in COUNTED.items():
        units = (many - few) * (TOKENS if unit == "token" else 1)
        each = {name: (more - less) / units for (kind, name), (less, more) in found.items() if kind == unit}
        whole = each.pop("")
        print_table(unit, "instructions", whole, {name: Cost(*[whole - left] * 3) for name, left in each.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--model", default="", help="such as smollm2: measure what a token of it takes in all")
    parser.add_argument("--instructions", action="store_true")
    parser.add_argument("--children", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.instructions:
        count_instructions()
    elif options.children:
        send_in_children()
    else:
        uvloop.run(measure(options.rounds, options.model))


if __name__ == "__main__":
    main()
