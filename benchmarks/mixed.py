"""Everything at once, while workers join, drain and die: `python benchmarks/mixed.py [--requests 100000]`.

Serves `examples/demo_config.yaml`, asks every question once alone, then asks them again and again from many clients at
a time over HTTP and the native protocol. Every request has to end in exactly one answer, and in the right one.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
from PIL import Image, ImageDraw

import shoal
from shoal.bench.http import HttpConnection

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "examples" / "demo_config.yaml"
PORT = 9960
WORKERS = 3  # of the chaos, beside the two that stay
PATIENCE = 600.0  # seconds: what is counted are answers, however busy the machine
CALM = (3.0, 8.0)  # seconds between two blows

Answer = Any
Ask = Callable[["Client"], Awaitable[Answer]]


@dataclass(frozen=True)
class Question:
    kind: str
    ask: Ask
    same: Callable[[Answer, Answer], bool] = lambda first, second: bool(first == second)


class Client:
    """One client: a native connection and an HTTP connection."""

    def __init__(self) -> None:
        self.native = shoal.AsyncClient(f"127.0.0.1:{PORT}", timeout=PATIENCE)
        self.http = HttpConnection(urlsplit(f"http://127.0.0.1:{PORT}"))

    async def post(self, path: str, body: Any) -> Any:
        status = await self.http.post(path, msgspec.json.encode(body), PATIENCE)
        if status != 200:
            raise RuntimeError(f"{status}: {bytes(self.http.body[:300])!r}")
        return msgspec.json.decode(bytes(self.http.body))


def questions() -> list[tuple[float, Question]]:
    """Every question, with how often it is asked beside the others."""
    found: list[tuple[float, Question]] = []
    found += [(30 / 100, recommend(number)) for number in range(100)]
    found += [(20 / 60, embed(number)) for number in range(60)]
    found += [(20 / 40, embed_over_http(number)) for number in range(40)]
    found += [(20 / 50, infer_over_http(number)) for number in range(50)]
    found += [(3 / 10, read(number)) for number in range(10)]
    found += [(2 / 12, chat(number)) for number in range(12)]
    return found


def recommend(number: int) -> Question:
    users = np.array([[f"user {number * 3 + row}".encode()] for row in range(3)], dtype=np.object_)

    async def ask(client: Client) -> Answer:
        return (await client.native.infer("recommender", {"user": users}))["scores"].tolist()

    return Question("recommender, sharded", ask)


def close(first: Answer, second: Answer) -> bool:
    return bool(np.allclose(first, second, atol=1e-5))


def embed(number: int) -> Question:
    async def ask(client: Client) -> Answer:
        return await client.native.embed([f"Sentence number {number} of the sea.", "A herring."])

    return Question("embeddings, native", ask, close)


def embed_over_http(number: int) -> Question:
    async def ask(client: Client) -> Answer:
        body = {"model": "minilm", "input": f"A fish of {number} pounds."}
        return (await client.post("/v1/embeddings", body))["data"][0]["embedding"]

    return Question("embeddings, HTTP", ask, close)


def infer_over_http(number: int) -> Question:
    async def ask(client: Client) -> Answer:
        data = list(range(number, number + 20))
        body = {"inputs": [{"name": "input", "shape": [20], "datatype": "INT64", "data": data}]}
        return (await client.post("/v2/models/echo/infer", body))["outputs"][0]["data"]

    return Question("tensors, HTTP", ask)


def read(number: int) -> Question:
    picture = Image.new("RGB", (320, 64), "white")
    ImageDraw.Draw(picture).text((10, 12), f"Shoal {number:04d}", fill="black", font_size=36)
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    image = np.array([[encoded.getvalue()]], dtype=np.object_)

    async def ask(client: Client) -> Answer:
        return (await client.native.infer("ocr", {"image": image}))["text"].tolist()

    return Question("image pipeline", ask)


def chat(number: int) -> Question:
    model = ("smollm2", "smollm2-gguf")[number % 2]
    messages = [{"role": "user", "content": f"Name {number + 2} fish."}]

    async def ask(client: Client) -> Answer:
        return (await client.native.generate(messages, model=model, temperature=0, max_tokens=24)).text

    return Question("chat", ask)


async def answer_alone(asked: list[Question]) -> list[Answer]:
    client = Client()
    async with client.native:
        return [await question.ask(client) for question in asked]


class Tally:
    def __init__(self, total: int) -> None:
        self.left = total
        self.right: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()

    @property
    def done(self) -> int:
        return sum((self.right + self.wrong + self.errors).values())


async def ask_on(tally: Tally, asked: list[Question], weights: list[float], expected: list[Answer], seed: int) -> None:
    client, chance = Client(), random.Random(seed)
    async with client.native:
        while tally.left:
            tally.left -= 1
            (index,) = chance.choices(range(len(asked)), weights)
            question = asked[index]
            try:
                answer = await question.ask(client)
            except Exception as error:  # whatever it is, it is not an answer
                tally.errors[f"{question.kind}: {type(error).__name__}: {str(error)[:160]}"] += 1
                continue
            (tally.right if question.same(expected[index], answer) else tally.wrong)[question.kind] += 1


async def trouble(workers: list[subprocess.Popen[bytes]], chance: random.Random, blows: Counter[str]) -> None:
    """Workers beside those that stay: one joins, drains or is killed, again and again."""
    while True:
        await asyncio.sleep(chance.uniform(*CALM))
        alive = [worker for worker in workers if worker.poll() is None]
        if len(alive) < WORKERS and chance.random() < 0.6:
            workers.append(worker_process())
            blows["joined"] += 1
        elif alive:
            kill = chance.random() < 0.5
            chance.choice(alive).send_signal(signal.SIGKILL if kill else signal.SIGTERM)
            blows["killed" if kill else "drained"] += 1


def worker_process() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "shoal", "worker", "--port", "0", "--coordinator", f"127.0.0.1:{PORT}"]
    command += ["--config", str(CONFIG), "--log-level", "error"]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL)


async def load(options: argparse.Namespace) -> Tally:
    found = questions()
    asked, weights = [question for _, question in found], [weight for weight, _ in found]
    began = time.monotonic()
    expected = await answer_alone(asked)
    print(f"{len(asked)} questions answered alone in {time.monotonic() - began:.0f} s", flush=True)
    tally, blows, workers = Tally(options.requests), Counter[str](), list[subprocess.Popen[bytes]]()
    troubling = asyncio.create_task(trouble(workers, random.Random(options.seed), blows))
    began = time.monotonic()
    clients = [
        asyncio.create_task(ask_on(tally, asked, weights, expected, options.seed * 1000 + number))
        for number in range(options.clients)
    ]
    try:
        while not all(client.done() for client in clients):
            await asyncio.wait(clients, timeout=10)
            print(f"{tally.done} of {options.requests}, {dict(blows)}, errors {sum(tally.errors.values())}", flush=True)
        for client in clients:
            client.result()
    finally:
        troubling.cancel()
        for worker in workers:
            worker.kill()
            worker.wait()
    took = time.monotonic() - began
    print(f"{tally.done} requests in {took:.0f} s, {tally.done / took:.0f} a second; workers {dict(blows)}")
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    environment = {**os.environ, "SHOAL_COORDINATOR_PORT": str(PORT), "SHOAL_LOG_LEVEL": "error"}
    command = [sys.executable, "-m", "shoal", "serve", "--config", str(CONFIG)]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL) as server:
        try:
            wait_until_ready()
            tally = asyncio.run(load(options))
        finally:
            server.terminate()
    for kind, count in sorted(tally.right.items()):
        print(f"{kind:24} right {count:7} wrong {tally.wrong[kind]}")
    for what, count in tally.errors.most_common(20):
        print(f"error {count:5} {what}")
    right = sum(tally.right.values())
    print(f"right answers: {right} of {options.requests}")
    sys.exit(0 if right == options.requests else 1)


def wait_until_ready() -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health/ready", timeout=5) as answer:
                json.load(answer)
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit("the server did not become ready")


if __name__ == "__main__":
    main()
