"""Shoal beside others, in turn, on the same cores: `python benchmarks/beside_rivals.py overhead [--rounds 3]`.

Each rival gets an environment of its own in the user's cache folder, once. In each round every entrant is started anew,
asked until it answers right, warmed up, measured, asked again, and ended.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from rich.console import Console
from rivals import isolation
from rivals.contest import Contest
from rivals.embeddings import EMBEDDINGS
from rivals.entrant import Entrant, Server, Wrong
from rivals.environments import NotInstalled, install, is_installed
from rivals.generation import GENERATION
from rivals.models import fetch
from rivals.overhead import OVERHEAD
from rivals.results import RESULTS, Results, begin, show
from serving import NotServing

CONTESTS = {contest.name: contest for contest in (OVERHEAD, EMBEDDINGS, GENERATION)}


def chosen(contest: Contest, only: str) -> list[Entrant]:
    """What is Shoal's own, and the rivals whose name has a part of ``only`` in it."""
    parts = [part.strip().lower() for part in only.split(",")]
    return [e for e in contest.entrants if not e.packages or any(part in e.name.lower() for part in parts)]


def install_all(contest: Contest, entrants: list[Entrant]) -> None:
    for model in contest.models:
        fetch(model)
    for entrant in entrants:
        try:
            install(entrant)
        except NotInstalled as error:
            print(f"{entrant.name} cannot be installed: {error}", flush=True)


def obstacle(entrant: Entrant, isolated: bool) -> str | None:
    """Why it cannot take part."""
    if not is_installed(entrant):
        return "not installed"
    if isinstance(entrant, Server) and entrant.needs_isolation and not isolated:
        return "it listens on every address, and this system has no network namespaces for us"
    return None


def compete(contest: Contest, entrants: list[Entrant], results: Results, rounds: int, console: Console) -> None:
    """A B C, C B A, A B C …; who fails takes part no more."""
    for number in range(rounds):
        turn = [e for e in entrants if e.name not in results.left_out]
        for entrant in reversed(turn) if number % 2 else turn:
            began = time.monotonic()
            try:
                figures = contest.run(entrant, results.clients, results.seconds)
            except (NotServing, Wrong) as error:
                results.left_out[entrant.name] = str(error)
                results.runs.pop(entrant.name, None)
                console.print(f"round {number + 1}: {entrant.name}: {error}", markup=False, highlight=False)
                continue
            results.runs.setdefault(entrant.name, []).append(figures)
            took = time.monotonic() - began
            console.print(
                f"round {number + 1}: {entrant.name}: {figures.rate:.0f} {contest.unit} ({took:.0f} s in all)"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contest", choices=list(CONTESTS))
    parser.add_argument("--only", default="", help="parts of the names of rivals, with commas; shoal: none of them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, help="that ask at a time")
    parser.add_argument("--seconds", type=float, default=6.0, help="that a run takes; longer where answers do")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder that they are kept in")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that what runs is ended
    contest = CONTESTS[options.contest]
    console = Console(width=None if sys.stdout.isatty() else 200)
    results = begin(contest.name, contest.unit, options.clients or contest.clients, options.seconds)
    entrants = chosen(contest, options.only)
    if not options.inside:
        install_all(contest, entrants)
        if isolation.possible():
            sys.exit(isolation.run(*sys.argv, "--inside"))
    results.left_out = {e.name: why for e in entrants if (why := obstacle(e, options.inside))}
    cores, load = results.machine["cores"], results.machine["load_before"]
    console.print(f"{contest.title}: {results.clients} clients, {cores} cores, load before: {load:.2f}")
    compete(contest, entrants, results, options.rounds, console)
    show(results, console)
    console.print(f"kept in {os.path.relpath(results.keep(options.results))}")


if __name__ == "__main__":
    main()
