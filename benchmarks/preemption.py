"""What classes of priority are worth: `python benchmarks/preemption.py [--rounds 4]`.

One engine, kept full by streams of a low class, twice as many as it has places. Urgent requests come one after the
other, in turns with the class of the others and with a higher one, so that both meet the same load (A B A B). Printed
are the times to the first token, and what the low class loses by it. Every answer is compared with the one computed
alone.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time

from shoal.config import Config, cache_folder
from shoal.engines.base import EngineOptions
from shoal.engines.openvino import OpenVINOEngine
from shoal.messages import Generate
from shoal.model_store import no_progress, pull
from shoal.types import ModelName, RequestId, Sampling, TokenId, TokenPrompt
from shoal.worker.generation import GenerationLoop

PLACES = 8
LOW_TOKENS = 64
URGENT_TOKENS = 8
URGENT = tuple(range(5000, 5040))
CLASS = 5


class Bench:
    def __init__(self) -> None:
        folder = pull("smollm2", cache_folder(Config()), no_progress)
        threads = len(os.sched_getaffinity(0))
        engine = OpenVINOEngine(folder, EngineOptions(threads, kv_tokens=PLACES * 512, max_sequences=PLACES))
        self.loop = GenerationLoop(engine, encode_prompt=lambda prompt: prompt.tokens)  # type: ignore[union-attr]
        self.loop.start()
        self.said = 0  # tokens of the low class
        self.wrong = 0
        self._expected: dict[tuple[TokenId, ...], tuple[TokenId, ...]] = {}

    async def ask(
        self, prompt: tuple[TokenId, ...], count: int, priority: int = 0
    ) -> tuple[float, tuple[TokenId, ...]]:
        """Seconds to the first token, and all of them."""
        params = Sampling(temperature=0.0, max_tokens=count, ignore_eos=True)
        request = Generate(RequestId("r"), ModelName("m"), TokenPrompt(prompt), params, priority=priority)
        began, first, tokens = time.perf_counter(), 0.0, list[TokenId]()
        async for chunk in self.loop.generate(request):
            first = first or time.perf_counter() - began
            tokens += chunk.tokens
            self.said += len(chunk.tokens) if count == LOW_TOKENS else 0
        return first, tuple(tokens)

    async def learn(self) -> None:
        """The answers of each alone."""
        for prompt in [URGENT, *map(low_prompt, range(2 * PLACES))]:
            count = URGENT_TOKENS if prompt == URGENT else LOW_TOKENS
            self._expected[prompt] = (await self.ask(prompt, count))[1]

    async def keep_full(self, number: int) -> None:
        prompt = low_prompt(number)
        while True:
            self.wrong += (await self.ask(prompt, LOW_TOKENS))[1] != self._expected[prompt]

    async def urgent(self, requests: int, priority: int) -> tuple[list[float], float]:
        """Times to the first token of some, one after the other, and tokens a second of the low class meanwhile."""
        began, said, firsts = time.perf_counter(), self.said, []
        for _ in range(requests):
            first, tokens = await self.ask(URGENT, URGENT_TOKENS, priority)
            self.wrong += tokens != self._expected[URGENT]
            firsts.append(first)
            await asyncio.sleep(0.1)
        return firsts, (self.said - said) / (time.perf_counter() - began)


def low_prompt(number: int) -> tuple[TokenId, ...]:
    return tuple(range(1000 + 50 * number, 1030 + 50 * number))


def quantiles(seconds: list[float]) -> tuple[float, float]:
    ordered = sorted(seconds)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]


async def measure(rounds: int, requests: int) -> None:
    bench = Bench()
    await bench.learn()
    load = [asyncio.create_task(bench.keep_full(number)) for number in range(2 * PLACES)]
    await asyncio.sleep(1)
    firsts: dict[int, list[float]] = {0: [], CLASS: []}
    rates: dict[int, list[float]] = {0: [], CLASS: []}
    for _ in range(rounds):
        for priority in firsts:
            times, rate = await bench.urgent(requests, priority)
            firsts[priority] += times
            rates[priority].append(rate)
    for task in load:
        task.cancel()
    await asyncio.gather(*load, return_exceptions=True)
    await bench.loop.close()
    (p50, p99), (urgent_p50, urgent_p99) = (quantiles(firsts[priority]) for priority in firsts)
    print(f"first token without a class: p50 {p50 * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms")
    print(f"first token with one:        p50 {urgent_p50 * 1e3:.0f} ms, p99 {urgent_p99 * 1e3:.0f} ms")
    print(f"ratio: p50 {urgent_p50 / p50:.3f}, p99 {urgent_p99 / p99:.3f}")
    low = [statistics.mean(rates[priority]) for priority in rates]
    print(f"the low class meanwhile: {low[0]:.0f} and {low[1]:.0f} tokens/s; answers that differ: {bench.wrong}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--requests", type=int, default=10, help="urgent ones in each half of a round")
    options = parser.parse_args()
    print(f"{PLACES} places, {2 * PLACES} streams, load before: {os.getloadavg()[0]:.2f}")
    asyncio.run(measure(options.rounds, options.requests))


if __name__ == "__main__":
    main()
