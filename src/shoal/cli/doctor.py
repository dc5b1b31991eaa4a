"""``shoal doctor``: what this machine offers, how Shoal would lay itself out on it, and what is in its way."""

from __future__ import annotations

import os
import resource
import shutil
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import click
import psutil
from rich.table import Table

from shoal.api.listener import BACKLOG
from shoal.api.places import RESERVE
from shoal.cli.admin import show_json, show_table
from shoal.cli.settings import common_options, settings
from shoal.cluster import engine_environment, plan_cores
from shoal.config import Config, cache_folder
from shoal.model_store import CATALOG, located

EXTRAS = {"openvino": "openvino", "llama": "xllamacpp", "onnx": "onnxruntime"}  # and the package that each needs
FASTER = ("amx_bf16", "avx512_bf16", "avx512_vnni", "avx_vnni", "avx2")  # the best first
LEAST_DESCRIPTORS = 4096
LEAST_DISK = 2 * 2**30  # bytes


@dataclass(frozen=True, slots=True)
class Finding:
    about: str
    found: str
    advice: str = ""  # empty: nothing is wrong


@click.command()
@common_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(file: Path | None, log_level: str | None, log_format: str | None, as_json: bool) -> None:
    """Show what this machine offers, the layout of threads and cores, and what is in the way."""
    config = settings(file, log_level, log_format).config
    found = list(examine(config))
    if as_json:
        show_json([asdict(finding) for finding in found])
        return
    table = Table("", "found", "advice", box=None)
    for finding in found:
        table.add_row(finding.about, finding.found, finding.advice)
    show_table(table)


def examine(config: Config) -> Iterator[Finding]:
    cpus = sorted(os.sched_getaffinity(0))
    yield _cores(len(cpus), _quota(Path("/sys/fs/cgroup/cpu.max")))
    yield _instructions(Path("/proc/cpuinfo"))
    yield from _layout(cpus, config.serve.workers)
    memory = psutil.virtual_memory()
    yield Finding("memory", f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} GiB free")
    yield descriptors(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    yield backlog(Path("/proc/sys/net/core/somaxconn"))
    yield _port(config.coordinator.host, config.coordinator.port)
    yield from _engines()
    yield from _models(cache_folder(config))


# -- processors


def _quota(file: Path) -> float | None:
    """Cores that a container may use at a time, where that is limited (cgroup v2)."""
    try:
        quota, period = file.read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _cores(count: int, quota: float | None) -> Finding:
    found = f"{count} of {os.cpu_count()}" + ("" if quota is None else f", a quota of {quota:g}")
    if quota is not None and quota < count:
        return Finding(
            "cores", found, "engines start a thread for each core and wait for one another: pin with taskset or cpuset"
        )
    return Finding("cores", found)


def _instructions(file: Path) -> Finding:
    try:
        flags = next(line for line in file.read_text().splitlines() if line.startswith("flags")).split()
    except (OSError, StopIteration):
        return Finding("instructions", "not known")
    return Finding("instructions", ", ".join(flag for flag in FASTER if flag in flags) or "none that help")


def _layout(cpus: list[int], workers: int) -> Iterator[Finding]:
    """What ``shoal serve`` would give to each of its workers."""
    for number, grant in enumerate(plan_cores(cpus, workers), 1):
        spin = engine_environment(grant)["GOMP_SPINCOUNT"]
        threads = "1 thread" if grant.threads == 1 else f"{grant.threads} threads"
        found = f"on {_listed(grant.cpus)}: {threads} for each engine, spin count {spin}"
        advice = f"{workers} workers share {len(cpus)} cores: fewer workers are faster" if grant.shared else ""
        yield Finding(f"worker {number} of {workers}", found, advice)


def _listed(cpus: tuple[int, ...]) -> str:
    adjacent = len(cpus) > 2 and cpus[-1] - cpus[0] == len(cpus) - 1
    if len(cpus) == 1:
        return f"core {cpus[0]}"
    return f"cores {cpus[0]} to {cpus[-1]}" if adjacent else f"cores {' and '.join(map(str, cpus))}"


# -- the system


def descriptors(limit: int) -> Finding:
    """``limit``: what this process may raise its own to."""
    if limit == resource.RLIM_INFINITY:
        return Finding("connections", "as many as come")
    found = f"{limit - RESERVE} at a time"
    return Finding("connections", found, "raise `ulimit -Hn`" if limit < LEAST_DESCRIPTORS else "")


def backlog(file: Path) -> Finding:
    try:
        held = int(file.read_text())
    except (OSError, ValueError):
        return Finding("backlog", "not known")
    advice = f"a burst of new connections is refused: sysctl net.core.somaxconn={BACKLOG}" if held < BACKLOG else ""
    return Finding("backlog", f"{min(held, BACKLOG)} connections", advice)


def _port(host: str, port: int) -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = error.strerror or str(error)
            return Finding("address", f"{host}:{port}: {reason.lower()}", "choose another with --listen-port")
    return Finding("address", f"{host}:{port} is free")


# -- engines and models


def _engines() -> Iterator[Finding]:
    for extra, package in EXTRAS.items():
        try:
            yield Finding(f"engine {extra}", f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            yield Finding(f"engine {extra}", "not installed", f"pip install 'shoal[{extra}]'")


def _models(folder: Path) -> Iterator[Finding]:
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(existing).free
    advice = "models need more room" if free < LEAST_DISK else ""
    yield Finding("models", f"{folder}, {free / 2**30:.1f} GiB free", advice)
    for name in CATALOG:
        here = located(name, folder) is not None
        yield Finding(f"model {name}", "here" if here else "not here", "" if here else f"shoal pull {name}")
