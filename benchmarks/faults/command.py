"""The command line of the suite."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from faults.cluster import OBEDIENT, Plan, running
from faults.hosts import move_to_own_network
from faults.leftovers import held
from faults.load import Load, Stream
from faults.rounds import SHAPES, complaints, measure
from faults.scenarios import FAULTS, Fault
from faults.soak import soak
from faults.table import explained, markdown, plain
from faults.verdict import Verdict

QUICK = (
    "none",
    "kill -9 of a worker",
    "SIGSTOP of a worker",
    "kill -9 of an engine",
    "raises each time",
    "connection half closed",
    "black hole, both",
    "kill -9 of the coordinator",
)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Real processes, real faults: see docs/reliability.md")
    parser.add_argument("--rounds", type=int, default=2, help="of each fault: a burst and a steady load in turn")
    parser.add_argument("--streams", type=int, default=200, help="of a round")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--only", action="append", default=[], help="a part of a fault's name; may be repeated")
    parser.add_argument("--quick", action="store_true", help="a few faults, once each, with 40 streams on 3 workers")
    parser.add_argument("--model", help="a real model, such as smollm2, in place of the one that costs nothing")
    parser.add_argument("--stages", action="store_true", help="also where the pauses went; needs the extra 'otel'")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="steady load with a fault every 15 s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser.parse_args()


def chosen(options: argparse.Namespace) -> list[Fault]:
    parts = options.only or (QUICK if options.quick else ("",))
    found = [fault for fault in FAULTS if any(part in fault.name for part in parts)]
    return [fault for fault in found if not (options.model and fault.obedient)]


def plan_of(fault: Fault, options: argparse.Namespace) -> Plan:
    plan = fault.plan or Plan(workers=options.workers)
    return replace(plan, uri=options.model or OBEDIENT, traced=options.stages)


def verdicts(options: argparse.Namespace, faults: Sequence[Fault], load: Load) -> Iterator[tuple[Fault, Verdict]]:
    """One cluster for all faults of the same plan; the answers in peace are the same in each."""
    chance = random.Random(options.seed)
    peace: dict[int, Stream] = {}
    for plan, group in groupby(faults, lambda fault: plan_of(fault, options)):
        with running(plan) as cluster:
            peace = peace or asyncio.run(load.in_peace(cluster.addresses))
            for shape in SHAPES:  # so that all that is kept for later is there
                asyncio.run(load.run(cluster.addresses, shape))
            before = held(cluster)
            for fault in group:
                yield (
                    fault,
                    measure(cluster, load, fault, options.rounds, peace=peace, before=before, chance=chance),
                )


def main() -> None:
    options = arguments()
    move_to_own_network()
    if options.quick:
        options.rounds, options.streams, options.workers = 1, 40, 3
    load = Load(options.streams, chat=options.model is not None, traced=options.stages)
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", file=sys.stderr)
    if options.soak:
        sys.exit(soak(options, load))
    found: list[Verdict] = []
    broken = False
    for fault, verdict in verdicts(options, chosen(options), load):
        found.append(verdict)
        wrong = complaints(fault, verdict)
        broken = broken or bool(wrong)
        print(f"{fault.name}: {'; '.join(wrong) or verdict.skipped or 'as promised'}", file=sys.stderr, flush=True)
        if options.json:
            options.json.write_text(json.dumps([plain(each) for each in found], indent=1))
    print(markdown(found))
    if options.stages:
        print(f"\n{explained(found)}")
    sys.exit(broken)
