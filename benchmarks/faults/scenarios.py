"""The faults: what is struck, what ends it, and how soon it must be noticed."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from faults.cluster import MODEL, Cluster, Plan
from faults.processes import Process
from faults.proxy import BOTH, TO_COORDINATOR, TO_WORKER, Garble

Act = Callable[[Cluster, random.Random], None]

KILLED = 0.2  # seconds until the end of a process or a connection is noticed
SILENT = 1.0  # and a process that is frozen, or cut off without a word
HUNG = 6.0  # and an engine whose step does not end
ENDED = 30.0  # and an engine that is of no use has ended
EAT = 64 * 2**20  # bytes an engine may still take before its memory is at an end
CGROUP = Path("/sys/fs/cgroup/memory/shoal-faults")


def _nothing(cluster: Cluster, chance: random.Random) -> None:
    return None


@dataclass(frozen=True)
class Fault:
    """``within``: seconds until it must be noticed; None: whenever. ``quiet``: nobody may take it for a failure."""

    name: str
    strike: Act
    heal: Act = _nothing
    lasts: float = 0.0  # seconds between the two
    within: float | None = None
    quiet: bool = False
    obedient: bool = False  # needs the engine that does what it is told
    plan: Plan | None = None  # of a cluster of its own
    needs: Callable[[Cluster], str] = lambda cluster: ""  # why it cannot be tried here


# -- processes


def _worker(cluster: Cluster, chance: random.Random) -> Process:
    cluster.struck = chance.choice(cluster.workers)
    return cluster.struck


def _signal_worker(number: signal.Signals) -> Act:
    return lambda cluster, chance: _worker(cluster, chance).main.send_signal(number)


def _resume(cluster: Cluster, chance: random.Random) -> None:
    for process in cluster.processes():
        if process.status() == psutil.STATUS_STOPPED:
            process.resume()


def _engine(cluster: Cluster, chance: random.Random) -> psutil.Process:
    engines = [(worker, engine) for worker in cluster.workers if (engine := worker.engine()) is not None]
    cluster.struck, engine = chance.choice(engines)
    return engine


def _signal_engine(number: signal.Signals) -> Act:
    return lambda cluster, chance: _engine(cluster, chance).send_signal(number)


def _tell_engine(does: str) -> Act:
    return lambda cluster, chance: cluster.switch(_engine(cluster, chance).pid, does)


def _forget(cluster: Cluster, chance: random.Random) -> None:
    cluster.reset_switches()


def _ask_until_it_ends(cluster: Cluster, chance: random.Random) -> None:
    """An engine that nobody gets an answer of ends itself, once it has been asked by a few."""
    engines = cluster.switched()
    deadline = time.monotonic() + ENDED
    while any(map(psutil.pid_exists, engines)):
        if time.monotonic() > deadline:
            raise SystemExit(f"the engine did not end within {ENDED:g} s")
        question = {"model": MODEL, "prompt": f"Are you well at {chance.random()}?", "max_tokens": 1}
        cluster.change("POST", "/v1/completions", question)
        time.sleep(0.05)
    cluster.reset_switches()


def _limit_memory(cluster: Cluster, chance: random.Random) -> None:
    """The engine asks for more than it may have, and is told no."""
    engine = _engine(cluster, chance)
    limit = engine.memory_info().vms + EAT
    engine.rlimit(psutil.RLIMIT_AS, (limit, limit))
    cluster.switch(engine.pid, "eat")


def _run_out_of_memory(cluster: Cluster, chance: random.Random) -> None:
    """The engine takes more than there is, and the kernel ends it."""
    engine = _engine(cluster, chance)
    CGROUP.mkdir(exist_ok=True)
    (CGROUP / "memory.limit_in_bytes").write_text(str(engine.memory_info().rss + EAT))
    (CGROUP / "cgroup.procs").write_text(str(engine.pid))
    cluster.switch(engine.pid, "eat")


def _no_cgroup(cluster: Cluster) -> str:
    parent = CGROUP.parent
    return "" if parent.is_dir() and os.access(parent, os.W_OK) else "no memory cgroup that this user may make"


def _remove_cgroup(cluster: Cluster, chance: random.Random) -> None:
    cluster.reset_switches()
    for _ in range(50):
        try:
            CGROUP.rmdir()
        except OSError:
            time.sleep(0.1)
        else:
            return


def _kill_coordinator(cluster: Cluster, chance: random.Random) -> None:
    cluster.coordinators[0].main.kill()


def _stop_coordinator(cluster: Cluster, chance: random.Random) -> None:
    cluster.coordinators[0].main.terminate()


# -- the network of the first worker


def _hold(*ways: str) -> Act:
    return lambda cluster, chance: cluster.link.held.update(ways)


def _delay(seconds: float) -> Act:
    def strike(cluster: Cluster, chance: random.Random) -> None:
        cluster.link.delay = seconds

    return strike


def _garble(how: str) -> Act:
    def strike(cluster: Cluster, chance: random.Random) -> None:
        cluster.link.garble = Garble(how)

    return strike


def _each_proxy(name: str) -> Act:
    def strike(cluster: Cluster, chance: random.Random) -> None:
        for proxy in cluster.proxies:
            getattr(proxy, name)()

    return strike


def _heal_link(cluster: Cluster, chance: random.Random) -> None:
    cluster.link.heal()


# -- the network between two hosts


def _lose(*ways: str) -> Act:
    def strike(cluster: Cluster, chance: random.Random) -> None:
        assert cluster.hosts is not None
        cluster.hosts.lose(ways)

    return strike


def _unplug(cluster: Cluster, chance: random.Random) -> None:
    assert cluster.hosts is not None
    cluster.hosts.unplug()


def _heal_hosts(cluster: Cluster, chance: random.Random) -> None:
    assert cluster.hosts is not None
    cluster.hosts.heal()


def _no_hosts(cluster: Cluster) -> str:
    return "there is no other host" if cluster.hosts is None else cluster.hosts.why_not


# -- the machine


def _jump(seconds: float) -> Act:
    return lambda cluster, chance: cluster.clock.set(seconds)


def _no_compiler(cluster: Cluster) -> str:
    return "" if cluster.clock.works else "no C compiler for the clock that jumps"


def _fill_disk(cluster: Cluster, chance: random.Random) -> None:
    with (cluster.disk / "filler").open("wb", buffering=0) as file:
        for size in (2**16, 2**10, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


def _empty_disk(cluster: Cluster, chance: random.Random) -> None:
    (cluster.disk / "filler").unlink(missing_ok=True)


def _no_small_disk(cluster: Cluster) -> str:
    return "" if os.path.ismount(cluster.disk) else "this user may not mount a small file system"


# -- changes


def _restart_all(cluster: Cluster, chance: random.Random) -> None:
    """One worker after the other, each once the one before is back."""
    for worker in cluster.workers:
        assert worker.popen is not None
        worker.main.terminate()
        worker.popen.wait(30)
        cluster.until_ready()


def _change_version(cluster: Cluster, chance: random.Random) -> None:
    """Load the next version everywhere, make it live, unload the one before."""
    old, new = cluster.version, cluster.version + 1
    settings = {"uri": cluster.plan.uri}
    cluster.change("POST", "/admin/models", {"name": MODEL, "version": str(new), "settings": settings})
    cluster.change("POST", f"/admin/models/{MODEL}@{new}/promote")
    cluster.version = new
    cluster.change("DELETE", f"/admin/models/{MODEL}@{old}")


TWO_HOSTS = Plan(workers=3, coordinators=1, hosts=True)

FAULTS = (
    Fault("none", _nothing, quiet=True),
    Fault("kill -9 of a worker", _signal_worker(signal.SIGKILL), within=KILLED),
    Fault("SIGSTOP of a worker for 5 s", _signal_worker(signal.SIGSTOP), _resume, lasts=5.0, within=SILENT),
    Fault("SIGTERM of a worker", _signal_worker(signal.SIGTERM)),
    Fault("kill -9 of an engine", _signal_engine(signal.SIGKILL), within=KILLED),
    Fault("SIGSEGV of an engine", _signal_engine(signal.SIGSEGV), within=KILLED),
    Fault("SIGSTOP of an engine for 5 s", _signal_engine(signal.SIGSTOP), _resume, lasts=5.0, within=SILENT),
    Fault("kernel out of memory", _run_out_of_memory, _remove_cgroup, 1.0, obedient=True, needs=_no_cgroup),
    Fault("engine's memory at its limit", _limit_memory, _forget, 1.0, obedient=True),
    Fault("engine raises once", _tell_engine("raise once"), obedient=True),
    Fault("engine raises each time", _tell_engine("raise"), _forget, 2.0, obedient=True),
    Fault("engine computes NaN", _tell_engine("nan"), _ask_until_it_ends, obedient=True),
    Fault("engine answers in a wrong shape", _tell_engine("shape"), _forget, 2.0, obedient=True),
    Fault("engine hangs in a step", _tell_engine("hang"), _forget, 1.0, within=HUNG, obedient=True),
    Fault("engine is slow: 1.5 s a step", _tell_engine("slow"), _forget, 5.0, quiet=True, obedient=True),
    Fault("engine computes without letting go", _tell_engine("busy"), _forget, 3.0, quiet=True, obedient=True),
    Fault("connection closed", _each_proxy("close_all"), within=KILLED),
    Fault("connection reset", _each_proxy("reset_all"), within=KILLED),
    Fault("connection half closed", _each_proxy("half_close"), within=KILLED),
    Fault("black hole, both ways, 5 s", _hold(*BOTH), _heal_link, 5.0, within=SILENT),
    Fault("black hole, from the worker, 5 s", _hold(TO_COORDINATOR), _heal_link, 5.0, within=SILENT),
    Fault("black hole, to the worker, 5 s", _hold(TO_WORKER), _heal_link, 5.0),
    Fault("200 ms of delay each way", _delay(0.2), _heal_link, 4.0),
    Fault("2 s of delay each way", _delay(2.0), _heal_link, 6.0, within=SILENT),
    Fault("a frame dropped", _garble("drop"), _heal_link, 3.0, within=SILENT),
    Fault("a frame twice", _garble("duplicate"), _heal_link, 3.0, within=SILENT),
    Fault("two frames in the wrong order", _garble("reorder"), _heal_link, 3.0, within=SILENT),
    Fault("wall clock an hour ahead", _jump(3600.0), _jump(0.0), 3.0, quiet=True, needs=_no_compiler),
    Fault("wall clock an hour back", _jump(-3600.0), _jump(0.0), 3.0, quiet=True, needs=_no_compiler),
    Fault("kill -9 of the coordinator", _kill_coordinator),
    Fault("SIGTERM of the coordinator", _stop_coordinator),
    Fault("restart of every worker in turn", _restart_all),
    Fault("hosts apart for 5 s", _lose(*BOTH), _heal_hosts, 5.0, SILENT, plan=TWO_HOSTS, needs=_no_hosts),
    Fault(
        "packets from the worker lost for 5 s",
        _lose(TO_COORDINATOR),
        _heal_hosts,
        5.0,
        SILENT,
        plan=TWO_HOSTS,
        needs=_no_hosts,
    ),
    Fault("cable pulled for 5 s", _unplug, _heal_hosts, 5.0, SILENT, plan=TWO_HOSTS, needs=_no_hosts),
    Fault(
        "full disk under the cache",
        _fill_disk,
        _empty_disk,
        3.0,
        plan=Plan(workers=2, coordinators=1, cached=True),
        needs=_no_small_disk,
    ),
    Fault("the model's version changed", _change_version, quiet=True, plan=Plan(workers=2, coordinators=1)),
)
