"""Where a step of generation goes: `python benchmarks/generation_steps.py [--clients 8] [--engine openvino]`.

Real processes over HTTP. Of each token, the CPU time of every process, the engine's apart from what surrounds it in its
process; of each step, how long it took and how long none ran although somebody waited. On a machine that does other
things too, the CPU times still tell, the others do not.
"""

from __future__ import annotations

import argparse
import statistics
import time
import urllib.request
from collections import defaultdict
from collections.abc import Mapping
from typing import Final

import psutil
from rivals.contest import started
from rivals.generation import ANSWER_TOKENS, GENERATION, load, warm_up
from rivals.shoal import LLAMA_GENERATION, OPENVINO_GENERATION
from serving import Family, answers

from shoal.bench.summary import summarise

ENGINES: Final = {"openvino": OPENVINO_GENERATION, "llama": LLAMA_GENERATION}
TOLD_WITHIN: Final = 2.0  # seconds until the coordinator knows the engine's last figures
STEPS: Final = "shoal_engine_step_seconds"
ROWS: Final = "shoal_engine_step_rows"


def cpu_seconds(family: Family) -> Mapping[str, float]:
    """By what spends it; this process is the client."""
    spent: defaultdict[str, float] = defaultdict(float)
    for process in family.members():
        command = process.cmdline()
        is_engine = "shoal.worker.engine_host" in command
        name = "engine process" if is_engine else "worker" if "worker" in command else "coordinator"
        for thread in process.threads():
            of_engine = is_engine and thread.id != process.pid
            spent["engine" if of_engine else name] += thread.user_time + thread.system_time
    own = psutil.Process().cpu_times()
    spent["client"] = own.user + own.system
    return spent


def told(url: str) -> Mapping[str, float]:
    """What the engine has told of its steps."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    found: defaultdict[str, float] = defaultdict(float)
    for line in lines:
        name = line.partition("{")[0]
        if name in {f"{STEPS}_sum", f"{STEPS}_count", f"{ROWS}_sum"}:
            found[name] += float(line.rpartition(" ")[2])
    return found


def _since(before: Mapping[str, float], now: Mapping[str, float]) -> Mapping[str, float]:
    return {name: value - before.get(name, 0.0) for name, value in now.items()}


def measured(engine: str, clients: int, seconds: float) -> dict[str, float]:
    """Times in µs: of a token where they are CPU, else of a step."""
    server = ENGINES[engine]
    with started(server, clients) as (url, family):
        family.wait(lambda: answers(f"{url}/health/ready"))
        warm_up(url, server, clients)
        time.sleep(TOLD_WITHIN)
        cpu, steps = cpu_seconds(family), told(url)
        done = load(url, clients, seconds, ANSWER_TOKENS, seed=2)
        cpu = _since(cpu, cpu_seconds(family))
        time.sleep(TOLD_WITHIN)
        steps = _since(steps, told(url))
    tokens = sum(record.tokens for record in done.records)
    count = steps[f"{STEPS}_count"]
    figures = {f"CPU a token: {name}": spent / tokens * 1e6 for name, spent in sorted(cpu.items())}
    return figures | {
        "a step": steps[f"{STEPS}_sum"] / count * 1e6,
        "between two steps": (done.duration - steps[f"{STEPS}_sum"]) / count * 1e6,
        "rows of a step": steps[f"{ROWS}_sum"] / count,
        "tokens a second": summarise(done).tokens_per_second,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=GENERATION.clients)
    parser.add_argument("--engine", choices=list(ENGINES), default="openvino")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rounds = [measured(options.engine, options.clients, options.seconds) for _ in range(options.rounds)]
    print(f"{options.engine}, {options.clients} clients, {options.rounds} rounds: median (all), µs")
    for name in rounds[0]:
        values = [each[name] for each in rounds]
        print(f"{name:<32}{statistics.median(values):>9.0f}  ({', '.join(f'{value:.0f}' for value in values)})")


if __name__ == "__main__":
    main()
