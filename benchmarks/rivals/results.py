"""What came of a contest: kept as JSON, and printed as ratios."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil
from rich.console import Console
from rich.table import Table

from rivals.entrant import Figures

RESULTS: Final = Path(__file__).parent.parent / "results"


class Results(msgspec.Struct, kw_only=True):
    """Of all rounds: for each entrant one run a round, in the order of the rounds."""

    contest: str
    unit: str
    clients: int
    seconds: float
    began: str  # ISO 8601
    commit: str
    machine: dict[str, Any]
    runs: dict[str, list[Figures]]
    left_out: dict[str, str]  # entrant -> why

    def ratios(self, name: str, base: str) -> list[float]:
        """Of the two runs of each round."""
        return [one.rate / other.rate for one, other in zip(self.runs[name], self.runs[base], strict=True)]

    def keep(self, folder: Path) -> Path:
        """In a file that is named for the contest, the time and the commit."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.contest}-{self.began.replace(':', '')}-{self.commit}.json"
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self)))
        return path


def begin(contest: str, unit: str, clients: int, seconds: float) -> Results:
    return Results(
        contest=contest,
        unit=unit,
        clients=clients,
        seconds=seconds,
        began=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        commit=_commit(),
        machine=_machine(),
        runs={},
        left_out={},
    )


def _commit() -> str:
    """With a plus where files differ from it."""
    git = ["git", "-C", str(RESULTS.parent), "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _machine() -> dict[str, Any]:
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def show(results: Results, console: Console) -> None:
    """A line for each entrant: its figures, and its ratio to the first and to each kind of Shoal."""
    names = list(results.runs)
    subjects = [name for name in names if name.startswith("Shoal")]
    table = Table("", results.unit, f": {names[0]}", *(f"{name} : it" for name in subjects), box=None)
    for title in ("p50 ms", "p99 ms", "first token ms", "cores", "CPU µs each", "MB"):
        table.add_column(title, justify="right")
    for name, runs in results.runs.items():
        table.add_row(
            name,
            f"{statistics.median(run.rate for run in runs):.0f}",
            spread(results.ratios(name, names[0])),
            *(spread(results.ratios(subject, name)) for subject in subjects),
            _median(runs, lambda run: run.p50, 1e3, ".2f"),
            _median(runs, lambda run: run.p99, 1e3, ".2f"),
            _median(runs, lambda run: run.first_p50, 1e3, ".0f"),
            _median(runs, lambda run: run.cores, 1, ".2f"),
            _median(runs, lambda run: run.cores / run.rate if run.cores else None, 1e6, ".0f"),
            _median(runs, lambda run: run.memory_bytes, 1e-6, ".0f"),
        )
    console.print(table)
    for name, why in results.left_out.items():
        console.print(f"left out: {name}: {why.splitlines()[0]}", markup=False, highlight=False)


def spread(ratios: list[float]) -> str:
    """The median, with the lowest and the highest."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def _median(runs: list[Figures], figure: Callable[[Figures], float | None], factor: float, form: str) -> str:
    values = [value for run in runs if (value := figure(run)) is not None]
    return format(statistics.median(values) * factor, form) if values else ""
