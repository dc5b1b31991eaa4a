"""Real processes, a real model, real faults: `python benchmarks/faults.py [--rounds 3] [--streams 200]`.

For each fault: many streams at a time over several workers, one of which is struck at a random moment. Every answer is
compared, token by token, with the one that the same request got in peace.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psutil

import shoal

PORT = 9970
TOKENS = 48
HUNG = 120.0  # seconds without an end


@dataclass
class Server:
    """``shoal serve`` and what it logs."""

    process: subprocess.Popen[str]
    log: list[dict[str, Any]] = field(default_factory=list)

    def read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with contextlib.suppress(ValueError):
                self.log.append(json.loads(line))

    def family(self, part: str) -> list[psutil.Process]:
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if part in " ".join(child.cmdline())]

    def noticed(self, since: float) -> float | None:
        """Seconds from ``since`` to the first log record that says a worker or engine is in trouble."""
        actions = {"worker_lost", "worker_suspected", "engine_died", "failover"}
        for record in self.log:
            at = datetime.fromisoformat(record["time"]).timestamp()
            if at >= since - 0.001 and record.get("action") in actions:
                return max(0.0, at - since)
        return None


@dataclass
class Stream:
    """What one client got."""

    question: int
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    gaps: list[float] = field(default_factory=list)
    end: str = "hung"


@contextlib.contextmanager
def serving(workers: int) -> Iterator[Server]:
    command = [sys.executable, "-m", "shoal", "serve", "smollm2", "--workers", str(workers)]
    command += ["--listen-port", str(PORT), "--log-format", "json"]
    environment = {**os.environ, "SHOAL_ENGINE_MAX_SEQUENCES": "64", "SHOAL_ENGINE_KV_TOKENS": "16384"}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        server = Server(process)
        threading.Thread(target=server.read, daemon=True).start()
        try:
            wait_until_ready(workers)
            yield server
        finally:
            process.terminate()
            process.wait(60)


def wait_until_ready(workers: int) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        if metric("shoal_workers", 'state="ready"') >= workers and not metric("shoal_workers", 'state="starting"'):
            return
        time.sleep(0.2)
    raise SystemExit("the workers did not become ready")


def metric(name: str, label: str = "") -> float:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return 0.0
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name) and label in line)


def request(question: int) -> dict[str, Any]:
    """Greedy and seeded in turn, some with penalties, some that stop at a word."""
    options: dict[str, Any] = {"max_tokens": TOKENS, "ignore_eos": True}
    options |= {"temperature": 0.0} if question % 2 else {"temperature": 0.9, "seed": question}
    if question % 5 == 0:
        options |= {"repetition_penalty": 1.2, "presence_penalty": 0.3}
    if question % 7 == 0:
        options |= {"stop": [" the"]}
    return {"prompt": [{"role": "user", "content": f"Tell me {question + 2} things about the sea."}], **options}


async def ask(client: shoal.AsyncClient, question: int) -> Stream:
    stream = Stream(question)
    last: float | None = None
    try:
        async with asyncio.timeout(HUNG):
            async for chunk in client.stream(model="smollm2", **request(question)):
                at = time.monotonic()
                if last is not None:
                    stream.gaps.append(at - last)
                last = at
                stream.tokens += chunk.tokens
                stream.text += chunk.text
                if chunk.finish_reason is not None:
                    stream.end = "finished"
    except TimeoutError:
        pass
    except shoal.ShoalError as error:
        stream.end = error.code
    return stream


async def ask_all(questions: list[int], strike: Callable[[], None] | None, after: float) -> tuple[list[Stream], float]:
    """All at once over a few connections; the blow falls ``after`` seconds. Returns when it fell."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(shoal.AsyncClient(f"127.0.0.1:{PORT}", timeout=HUNG)) for _ in range(8)
        ]
        asked = [
            asyncio.create_task(ask(client, question))
            for client, question in zip(itertools.cycle(clients), questions, strict=False)
        ]
        await asyncio.sleep(after)
        struck = time.time()
        if strike is not None:
            strike()
        return list(await asyncio.gather(*asked)), struck


# -- faults


def kill_worker(server: Server, chance: random.Random) -> None:
    chance.choice(server.family("shoal worker")).kill()


def freeze_worker(server: Server, chance: random.Random) -> None:
    """SIGSTOP, and SIGCONT five seconds later."""
    victim = chance.choice(server.family("shoal worker"))
    victim.suspend()
    threading.Timer(5.0, lambda: _resume(victim)).start()


def kill_engine(server: Server, chance: random.Random) -> None:
    chance.choice(server.family("engine_host")).kill()


def crash_engine(server: Server, chance: random.Random) -> None:
    chance.choice(server.family("engine_host")).send_signal(signal.SIGSEGV)


def stop_worker(server: Server, chance: random.Random) -> None:
    chance.choice(server.family("shoal worker")).terminate()


def _resume(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.resume()


FAULTS: dict[str, Callable[[Server, random.Random], None] | None] = {
    "none": None,
    "kill -9 of a worker": kill_worker,
    "SIGSTOP of a worker for 5 s": freeze_worker,
    "kill -9 of an engine": kill_engine,
    "SIGSEGV of an engine": crash_engine,
    "SIGTERM of a worker": stop_worker,
}


def compare(expected: dict[int, Stream], streams: list[Stream]) -> Counter[str]:
    counts: Counter[str] = Counter(sent=len(streams))
    for stream in streams:
        counts[stream.end if stream.end in ("finished", "hung") else "failed"] += 1
        whole = expected[stream.question]
        if stream.end == "finished":
            same = (stream.tokens, stream.text) == (whole.tokens, whole.text)
            counts["identical" if same else "changed"] += 1
    return counts


def measure(options: argparse.Namespace) -> bool:
    chance = random.Random(options.seed)
    questions = [number % options.questions for number in range(options.streams)]
    good = True
    with serving(options.workers) as server:
        calm, _ = asyncio.run(ask_all(list(range(options.questions)), None, 0.0))
        expected = {stream.question: stream for stream in calm}
        assert all(stream.end == "finished" for stream in calm), [stream.end for stream in calm]
        print(
            f"{'fault':30} {'sent':>5} {'done':>5} {'same':>5} {'changed':>7} {'failed':>6} {'hung':>4}  "
            f"{'noticed ms':>10} {'stall p50':>9} {'p99 ms':>7}  left"
        )
        for name, fault in FAULTS.items():
            if options.only and options.only not in name:
                continue
            total, noticed, stalls = Counter[str](), [], []
            for _ in range(options.rounds):
                strike = None if fault is None else lambda fault=fault: fault(server, chance)
                streams, struck = asyncio.run(ask_all(questions, strike, chance.uniform(1.0, options.within)))
                total += compare(expected, streams)
                stalls += [max(stream.gaps, default=0.0) * 1e3 for stream in streams]
                seen = server.noticed(struck)
                noticed += [] if seen is None else [seen * 1e3]
                wait_until_ready(options.workers)
            left = metric("shoal_in_flight_requests")
            row = f"{name:30} {total['sent']:5} {total['finished']:5} {total['identical']:5} {total['changed']:7} "
            row += f"{total['failed']:6} {total['hung']:4}  {statistics.median(noticed) if noticed else 0:10.0f} "
            quantiles = statistics.quantiles(stalls, n=100)
            print(row + f"{quantiles[49]:9.0f} {quantiles[98]:7.0f}  {left:.0f}", flush=True)
            good = good and total["identical"] == total["sent"] and not left
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--within", type=float, default=8.0, help="seconds after the start the blow falls at latest")
    parser.add_argument("--only", help="a part of the fault's name")
    parser.add_argument("--seed", type=int, default=0)
    sys.exit(0 if measure(parser.parse_args()) else 1)


if __name__ == "__main__":
    main()
