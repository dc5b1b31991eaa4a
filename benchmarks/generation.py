"""Generation over HTTP against a bare loop over the same engine: `python benchmarks/generation.py [--streams 8]`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request

import httpx
import msgspec
import numpy as np
from serving import shoal

from shoal.config import Config, cache_folder
from shoal.engines.base import EngineOptions, Row
from shoal.engines.openvino import OpenVINOEngine
from shoal.model_store import no_progress, pull

PROMPT_TOKENS = 100
ANSWER_TOKENS = 64


class Result(msgspec.Struct):
    tokens_per_second: float
    first_token: float  # seconds, median over the streams
    answers: list[list[int]]  # token ids, to see that both computed the same


def prompts(streams: int) -> list[list[int]]:
    return [[int(t) for t in row] for row in np.random.default_rng(0).integers(1000, 40_000, (streams, PROMPT_TOKENS))]


def bare(streams: int, threads: int) -> Result:
    """Prefill all prompts in one step, then decode them together."""
    engine = OpenVINOEngine(pull("smollm2", cache_folder(Config()), no_progress), EngineOptions(threads=threads))
    size = engine.capabilities.block_size
    per_sequence = -(-(PROMPT_TOKENS + ANSWER_TOKENS) // size)
    tables = [range(n * per_sequence, (n + 1) * per_sequence) for n in range(streams)]

    def generate(count: int) -> Result:
        began = time.perf_counter()
        rows = [Row(p, 0, table, wants_logits=True) for p, table in zip(prompts(streams), tables, strict=True)]
        answers = [[int(token)] for token in engine.step(rows).argmax(-1)]
        first = time.perf_counter() - began
        for position in range(PROMPT_TOKENS, PROMPT_TOKENS + count - 1):
            rows = [
                Row(a[-1:], position, table, wants_logits=True, generated=True)
                for a, table in zip(answers, tables, strict=True)
            ]
            for answer, token in zip(answers, engine.step(rows).argmax(-1), strict=True):
                answer.append(int(token))
        return Result(streams * count / (time.perf_counter() - began), first, answers)

    generate(8)
    return generate(ANSWER_TOKENS)


async def over_http(address: str, streams: int) -> Result:
    async with httpx.AsyncClient(base_url=f"http://{address}", timeout=120) as client:

        async def one(prompt: list[int]) -> tuple[float, int]:
            body = {"model": "smollm2", "prompt": prompt, "max_tokens": ANSWER_TOKENS, "temperature": 0, "stream": True}
            body |= {"ignore_eos": True, "stream_options": {"include_usage": True}}
            began, first, count = time.perf_counter(), 0.0, 0
            async with client.stream("POST", "/v1/completions", json=body) as response:
                response.raise_for_status()
                async for line in response.aiter_lines():
                    if not line.startswith("data: {"):
                        continue
                    first = first or time.perf_counter() - began
                    if usage := json.loads(line[6:]).get("usage"):
                        count = usage["completion_tokens"]
            return first, count

        began = time.perf_counter()
        ends = await asyncio.gather(*(one(prompt) for prompt in prompts(streams)))
        took = time.perf_counter() - began
    assert all(count == ANSWER_TOKENS for _, count in ends), ends
    return Result(streams * ANSWER_TOKENS / took, statistics.median(first for first, _ in ends), [])


def served(streams: int) -> Result:
    """One server of one worker, which has all cores; warmed up with other prompts than the measured ones."""
    with shoal("smollm2", "--workers", "1") as address:
        _warm_up(address)
        return asyncio.run(over_http(address, streams))


def _warm_up(address: str) -> None:
    body = json.dumps({"model": "smollm2", "prompt": "The sea", "max_tokens": 16}).encode()
    request = urllib.request.Request(f"http://{address}/v1/completions", body)
    request.add_header("content-type", "application/json")
    urllib.request.urlopen(request, timeout=60).close()


def in_a_process(kind: str, options: argparse.Namespace) -> Result:
    command = [sys.executable, __file__, "--only", kind, "--streams", str(options.streams)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=300)
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("bare", "served"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        threads = len(os.sched_getaffinity(0))
        result = bare(options.streams, threads) if options.only == "bare" else served(options.streams)
        sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")
        return
    print(f"{options.streams} streams, {len(os.sched_getaffinity(0))} cores, load before: {os.getloadavg()[0]:.2f}")
    ratios = []
    for round_number in range(1, options.rounds + 1):
        loop, http = in_a_process("bare", options), in_a_process("served", options)
        ratios.append(http.tokens_per_second / loop.tokens_per_second)
        print(
            f"round {round_number}: bare loop {loop.tokens_per_second:.0f} tokens/s, over HTTP "
            f"{http.tokens_per_second:.0f} tokens/s, ratio {ratios[-1]:.2f}; "
            f"first token {loop.first_token * 1e3:.0f} and {http.first_token * 1e3:.0f} ms"
        )
    print(f"ratio: {statistics.median(ratios):.2f} (lowest {min(ratios):.2f}, highest {max(ratios):.2f})")


if __name__ == "__main__":
    main()
