"""One fault, over its rounds: load, strike, heal, compare, look what is left."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping

from faults.again import explain
from faults.cluster import Cluster
from faults.leftovers import left_behind
from faults.load import Load, Shape, Stream
from faults.scenarios import Fault
from faults.verdict import Verdict

FIRST, LAST = 0.5, 2.0  # seconds after the load began that the blow falls
RETRIES = "shoal_retries_total"
SHAPES: tuple[Shape, ...] = ("burst", "steady")


async def once(
    cluster: Cluster, load: Load, fault: Fault, shape: Shape, chance: random.Random
) -> tuple[list[Stream], float]:
    """What the clients got, and when the blow fell, as wall-clock time."""
    asked = asyncio.create_task(load.run(cluster.addresses, shape))
    cluster.struck = None
    await asyncio.sleep(chance.uniform(FIRST, LAST))
    struck = time.time()
    await asyncio.to_thread(fault.strike, cluster, chance)
    await asyncio.sleep(fault.lasts)
    await asyncio.to_thread(fault.heal, cluster, chance)
    return await asked, struck


def measure(
    cluster: Cluster,
    load: Load,
    fault: Fault,
    rounds: int,
    *,
    peace: Mapping[int, Stream],
    before: Counter[str],
    chance: random.Random,
) -> Verdict:
    verdict = Verdict(fault.name, skipped=fault.needs(cluster))
    for number in range(0 if verdict.skipped else rounds):
        retries = cluster.metric(RETRIES)
        streams, struck = asyncio.run(once(cluster, load, fault, SHAPES[number % 2], chance))
        verdict.add(streams, peace)
        verdict.moved += int(max(0.0, cluster.metric(RETRIES) - retries))
        verdict.notice(cluster.noticed(struck))
        cluster.until_ready()
        if load.traced:
            explain(cluster, load, streams, struck, verdict)
        verdict.left += left_behind(cluster, before)
    return verdict


def complaints(fault: Fault, verdict: Verdict) -> list[str]:
    """What was promised and did not hold."""
    found: list[str] = []
    if verdict.skipped:
        return found
    if verdict.ended["hung"]:
        found.append(f"{verdict.ended['hung']} requests hung")
    if verdict.failed:
        found.append(f"{verdict.failed} requests failed: {', '.join(sorted(verdict.reasons)[:3])}")
    if verdict.wrong:
        found.append(f"{verdict.wrong} answers are not as in peace")
    if verdict.left:
        found.append(f"left behind: {dict(verdict.left)}")
    if fault.quiet and verdict.slowest_notice is not None:
        found.append(f"something that works was taken for a failure: {dict(verdict.signs)}")
    if fault.within is not None and None in verdict.noticed:
        found.append("it was not noticed")
    if fault.within is not None and (verdict.slowest_notice or 0.0) > fault.within:
        found.append(f"it was noticed after {verdict.slowest_notice:.2f} s, not within {fault.within:g} s")
    return found
