"""Two coordinators and some workers, each a process of its own, and all that can be struck."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from faults.clock import Clock
from faults.engines import SWITCHES
from faults.hosts import HERE, Hosts
from faults.processes import START_TIMEOUT, Process
from faults.proxy import Link, Proxy
from faults.spans import DELAY, Collector

BENCHMARKS = Path(__file__).parent.parent
MODEL = "subject"
OBEDIENT = "faults.engines:ObedientEngine?engine=language"
DISK = "512k"  # under the cache, where it has a disk of its own
DRAIN = 1.0  # seconds: shorter than an answer, so that some are handed on


@dataclass(frozen=True)
class Plan:
    """What to start. ``cached``: with a response cache on a small disk of its own; ``hosts``: the first worker is on
    another host, where that can be had; ``traced``: every process tells what it does for requests that ask for it."""

    uri: str = OBEDIENT
    workers: int = 4
    coordinators: int = 2
    cached: bool = False
    hosts: bool = False
    traced: bool = False


class Cluster:
    """Use :func:`running`. The first worker's network goes through proxies, so that it can be cut off."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.folder = folder
        self.disk = folder / "disk"
        self.clock = Clock(folder)
        self.link = Link()
        self.hosts = Hosts() if plan.hosts else None
        self.version = 1  # of the model, that is live
        self.struck: Process | None = None  # the worker that the last blow fell on, or on its engine
        self.collector = Collector() if plan.traced else None
        self._absent: Process | None = None  # a worker that is not started again
        self._stopping = False
        self._environment = {
            **self.clock.environment,
            SWITCHES: str(folder / "switches"),
            "PYTHONPATH": os.pathsep.join((str(BENCHMARKS), *filter(None, [os.environ.get("PYTHONPATH")]))),
            "SHOAL_ENGINE_MAX_SEQUENCES": "64",
            "SHOAL_COORDINATOR_ADMIN": "any",  # from between hosts it is not local
            "SHOAL_WORKER_DRAIN_TIMEOUT": str(DRAIN),
        }
        if self.collector is not None:
            self._environment |= {
                "SHOAL_TELEMETRY_OTLP_ENDPOINT": self.collector.address,
                "SHOAL_TELEMETRY_SAMPLE": "0",  # beside those that are asked for
                "OTEL_BSP_SCHEDULE_DELAY": str(round(DELAY * 1000)),
            }
        (folder / "switches").mkdir()
        self.disk.mkdir()
        if plan.cached:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", self.disk], capture_output=True)
        (folder / "shoal.yaml").write_text(json.dumps(self._configuration()))  # JSON is YAML
        self.coordinators = [self._coordinator(number) for number in range(1, plan.coordinators + 1)]
        self.addresses: list[str] = []
        self.proxies: list[Proxy] = []
        self.workers: list[Process] = []

    def _configuration(self) -> dict[str, Any]:
        model: dict[str, Any] = {"uri": self.plan.uri}
        file: dict[str, Any] = {"models": {f"{MODEL}@1": model}}
        if self.plan.cached:
            # So little memory that most is read from the disk.
            file["cache"] = {"url": f"sqlite://{self.disk}/cache.db", "max_entries": 4}
            model["cache"] = {"ttl": 3600.0}
        return file

    def _coordinator(self, number: int) -> Process:
        host = HERE if self.hosts is not None and not self.hosts.why_not else "127.0.0.1"
        arguments = ["coordinator", "--listen-port", "0", "--config", str(self.folder / "shoal.yaml"), "--host", host]
        environment = dict(self._environment)
        if number > 1:
            environment["SHOAL_CACHE_URL"] = ""  # the file belongs to one process
        return Process(f"coordinator {number}", arguments, environment)

    def start(self) -> None:
        for coordinator in self.coordinators:
            coordinator.start()
            address = coordinator.wait_for("coordinator serves on").rsplit("/", 1)[1].split()[0]
            self.addresses.append(address)
            coordinator.arguments[2] = address.rpartition(":")[2]  # the same one in its next life
        self.proxies = [] if self.hosts else [Proxy(address, self.link) for address in self.addresses]
        for number in range(1, self.plan.workers + 1):
            self.add_worker(number).start()
        self.until_ready()
        threading.Thread(target=self._supervise, daemon=True).start()

    def add_worker(self, number: int) -> Process:
        is_first = number == 1
        through = [proxy.address for proxy in self.proxies] if is_first and self.proxies else self.addresses
        wrapper = self.hosts.wrapper if is_first and self.hosts is not None and not self.hosts.why_not else ()
        arguments = ["worker", "--port", "0", "--config", str(self.folder / "shoal.yaml")]
        arguments += [part for address in through for part in ("--coordinator", address)]
        # Whoever comes back gets little at first; the first one, whose network is struck, gets enough all the same.
        environment = {**self._environment, "SHOAL_WORKER_WEIGHT": "4"} if is_first else self._environment
        worker = Process(f"worker {number}", arguments, environment, wrapper)
        self.workers.append(worker)
        return worker

    def _supervise(self) -> None:
        """Start again what ends, as any supervisor would."""
        while not self._stopping:
            for process in (*self.coordinators, *self.workers):
                if not process.runs and process is not self._absent and not self._stopping:
                    time.sleep(0.3)
                    process.start()
            time.sleep(0.05)

    @contextlib.contextmanager
    def without(self, worker: Process) -> Iterator[None]:
        """Nothing runs, and there is one worker fewer."""
        self._absent = worker
        worker.main.kill()
        self.until_ready()
        try:
            yield
        finally:
            self._absent = None
            self.until_ready()

    def stop(self) -> None:
        self._stopping = True
        self.clock.set(0.0)
        self.link.heal()
        if self.hosts is not None:
            self.hosts.heal()
        for process in (*self.workers, *self.coordinators):
            process.stop()
        for proxy in self.proxies:
            proxy.stop()
        if self.hosts is not None:
            self.hosts.remove()
        self.clock.close()
        if self.collector is not None:
            self.collector.close()
        if os.path.ismount(self.disk):
            subprocess.run(["umount", self.disk], capture_output=True)

    # -- what it says

    def until_ready(self) -> None:
        """Every coordinator has every worker ready, and nobody else."""
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if all(self._is_ready(address) for address in self.addresses):
                return
            time.sleep(0.1)
        raise SystemExit(f"the workers did not become ready: {[self.workers_of(a) for a in self.addresses]}")

    def _is_ready(self, address: str) -> bool:
        workers = self.workers_of(address)
        live = f"{MODEL}@{self.version}"
        return len(workers) == len(self.workers) - (self._absent is not None) and all(
            worker["state"] == "ready"
            and not worker["suspect"]
            and any(held["model"] in (live, MODEL) and held["state"] == "ready" for held in worker["models"])
            for worker in workers
        )

    def workers_of(self, address: str) -> list[dict[str, Any]]:
        found = self.get(address, "/admin/workers")
        return [] if found is None else list(found["workers"])

    def get(self, address: str, path: str) -> Any:
        """None when it does not answer."""
        try:
            with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as answer:
                body = answer.read()
        except OSError:
            return None
        return body.decode() if path == "/metrics" else json.loads(body)

    def metric(self, name: str) -> float:
        """Over all labels and coordinators."""
        pages = [self.get(address, "/metrics") or "" for address in self.addresses]
        lines = [line for page in pages for line in page.splitlines()]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def change(self, method: str, path: str, body: Any = None) -> None:
        """Ask every coordinator's ``/admin``."""
        for address in self.addresses:
            request = urllib.request.Request(
                f"http://{address}{path}",
                method=method,
                data=None if body is None else json.dumps(body).encode(),
                headers={"content-type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                answer.read()

    def noticed(self, since: float) -> tuple[float, str] | None:
        """Seconds from then until anybody said that something is wrong, and who said what."""
        told = [process.noticed(since) for process in (*self.coordinators, *self.workers)]
        first = min(filter(None, told), default=None)
        return None if first is None else (max(0.0, first[0] - since), first[1])

    def processes(self) -> list[psutil.Process]:
        return [member for process in (*self.coordinators, *self.workers) for member in process.family()]

    def switch(self, pid: int, does: str) -> None:
        """What the engine in this process does from now on."""
        (self.folder / "switches" / str(pid)).write_text(does)

    def switched(self) -> list[int]:
        """The processes whose engines were told something."""
        return [int(file.name) for file in (self.folder / "switches").iterdir()]

    def reset_switches(self) -> None:
        for file in (self.folder / "switches").iterdir():
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def running(plan: Plan) -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="shoal-faults-"))
    cluster = Cluster(plan, folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)
