"""A steady load for a long time, with a fault every few seconds: is anything lost, left, or larger than before?"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping

from faults.cluster import Cluster, Plan, running
from faults.leftovers import held, left_behind, memory
from faults.load import Load, Stream
from faults.rounds import complaints, once
from faults.scenarios import FAULTS, Fault
from faults.table import markdown, plain
from faults.verdict import Verdict

EVERY = 15.0  # seconds from one fault to the next
GROWTH = 0.05  # share by which memory may grow, once everything has been used
WARM = 4  # rounds until memory is looked at


def soak(options: argparse.Namespace, load: Load) -> int:
    """The exit code."""
    chance = random.Random(options.seed)
    with running(Plan(workers=options.workers)) as cluster:
        peace = asyncio.run(load.in_peace(cluster.addresses))
        asyncio.run(load.run(cluster.addresses, "burst"))
        before = held(cluster)
        verdict = Verdict(f"soak of {options.soak:g} minutes")
        sizes = struck_for(options.soak * 60, cluster, load, verdict, peace, chance)
        verdict.left = left_behind(cluster, before)
    growth = max(sizes[WARM:], default=0) / sizes[min(WARM, len(sizes) - 1)] - 1
    print(markdown([verdict]))
    print(
        f"\nMemory of coordinators and workers: {sizes[0] >> 20} MiB at first, at most {growth:+.1%} after the start."
    )
    if options.json:
        options.json.write_text(json.dumps({**plain(verdict), "memory": sizes}, indent=1))
    wrong = complaints(Fault("soak", lambda cluster, chance: None), verdict)
    wrong += [f"memory grew by {growth:.1%}"] if growth > GROWTH else []
    print("; ".join(wrong) or "as promised", file=sys.stderr)
    return bool(wrong)


def struck_for(
    seconds: float,
    cluster: Cluster,
    load: Load,
    verdict: Verdict,
    peace: Mapping[int, Stream],
    chance: random.Random,
) -> list[int]:
    """Returns the bytes of memory after each fault."""
    faults = [fault for fault in FAULTS if fault.plan is None and not fault.needs(cluster)]
    sizes: list[int] = []
    used = Counter[str]()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        fault = min(faults, key=lambda each: (used[each.name], chance.random()))
        used[fault.name] += 1
        streams, struck = asyncio.run(once(cluster, load, fault, "steady", chance))
        verdict.add(streams, peace)
        verdict.notice(cluster.noticed(struck))
        cluster.until_ready()
        sizes.append(memory(cluster))
        time.sleep(max(0.0, began + EVERY - time.monotonic()))
    return sizes
