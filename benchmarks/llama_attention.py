"""What flash attention would give the llama engine: `python benchmarks/llama_attention.py [--threads 2]`.

The bare engine over SmolLM2 with flash attention off, as it is, on, and on with V as BF16 beside K as F16, which
llama.cpp computes with the same kernel for any number of tokens. In turn in one process; the least of the rounds.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rivals.models import smollm2_gguf

from shoal.engines.base import EngineOptions, Row
from shoal.engines.llama import LlamaEngine
from shoal.engines.llama_abi import ContextParams
from shoal.engines.llama_plan import Room

F16, BF16 = 1, 30  # llama.cpp's numbers of the types
WAYS = {"off": (0, F16), "on": (1, F16), "on, V as BF16": (1, BF16)}
ROUNDS = 12
SEQUENCES = 17
TOKENS = np.random.default_rng(7).integers(20, 49_000, 1_000).tolist()


def make(path: Path, threads: int, flash_attention: int, type_v: int) -> LlamaEngine:
    class Engine(LlamaEngine):
        def _context_params(self, room: Room, threads: int) -> ContextParams:
            params = super()._context_params(room, threads)
            params.flash_attn_type, params.type_v = flash_attention, type_v
            return params

    options = EngineOptions(threads=threads, kv_tokens=SEQUENCES * 1024, max_sequences=SEQUENCES)
    return Engine(path, options)


def steps() -> Iterator[tuple[str, list[Row]]]:
    """What is computed. The sequences' cells before a step are there, whatever was computed behind them."""
    for behind in (100, 500, 1000):
        for rows in (1, 8, 16):
            yield f"{rows} rows behind {behind}", [Row((9,), behind, (number,), True) for number in range(rows)]
    yield "a prompt of 100", [Row(TOKENS[:100], 0, (SEQUENCES - 1,), True)]


def milliseconds(engine: LlamaEngine, rows: list[Row]) -> float:
    began = time.perf_counter()
    engine.step(rows)
    return (time.perf_counter() - began) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    threads = parser.parse_args().threads
    engines = {name: make(smollm2_gguf(), threads, *way) for name, way in WAYS.items()}
    for engine in engines.values():
        for number in range(SEQUENCES - 1):
            engine.step([Row(TOKENS[:500], 0, (number,), False)])
            engine.step([Row(TOKENS[500:], 500, (number,), False)])
    least: dict[tuple[str, str], float] = {}
    for what, rows in reversed(list(steps())):  # a step forgets what its sequences have behind it
        for _ in range(ROUNDS):
            for name, engine in engines.items():
                least[what, name] = min(milliseconds(engine, rows), least.get((what, name), float("inf")))
    print(f"{threads} threads, ms, and for off:" + "".join(f"{name:>24}" for name in WAYS))
    for what, _ in steps():
        ratios = (f"{least[what, name]:16.1f} {least[what, name] / least[what, 'off']:7.2f}" for name in WAYS)
        print(f"{what:27}" + "".join(ratios))


if __name__ == "__main__":
    main()
