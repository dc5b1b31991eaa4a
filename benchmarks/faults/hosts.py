"""Two hosts on one machine: a network namespace for a worker, and a cable between it and the suite's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable

from faults.proxy import TO_COORDINATOR, TO_WORKER

OWN = "FAULTS_OWN_NETWORK"  # is set once the suite has a network of its own
HERE, THERE = "10.77.0.1", "10.77.0.2"
LOSE_ALL = ("root", "tbf", "rate", "8bit", "burst", "1", "latency", "1ms")  # no packet fits


def move_to_own_network() -> None:
    """Run this program again in a network of its own, where that is permitted: what it listens on is nobody else's."""
    if OWN in os.environ or not _may("unshare", "--net", "true"):
        return
    begin = 'ip link set lo up && exec "$@"'
    command = ["unshare", "--net", "sh", "-c", begin, "sh", sys.executable, *sys.argv]
    os.execvpe(command[0], command, {**os.environ, OWN: "1"})


class Hosts:
    """``wrapper`` runs a command on the other host; ``why_not``: why there is none, or nothing."""

    def __init__(self) -> None:
        self.name = f"faults-{os.getpid()}"
        self.wrapper = ("ip", "netns", "exec", self.name)
        self.why_not = "" if OWN in os.environ else "this user may not make network namespaces"
        if not self.why_not and not self._make():
            self.why_not = "this machine has no network namespaces with cables between them"

    def _make(self) -> bool:
        here, there = ("ip",), ("ip", "-n", self.name)
        return (
            _may(*here, "netns", "add", self.name)
            and _may(*here, "link", "add", "here", "type", "veth", "peer", "name", "there", "netns", self.name)
            and _may(*here, "address", "add", f"{HERE}/24", "dev", "here")
            and _may(*here, "link", "set", "here", "up")
            and _may(*there, "address", "add", f"{THERE}/24", "dev", "there")
            and _may(*there, "link", "set", "there", "up")
            and _may(*there, "link", "set", "lo", "up")
            and shutil.which("tc") is not None
        )

    def lose(self, ways: Iterable[str]) -> None:
        """Every packet in these directions is lost, and nobody is told."""
        if TO_WORKER in ways:
            _may("tc", "qdisc", "add", "dev", "here", *LOSE_ALL)
        if TO_COORDINATOR in ways:
            _may("tc", "-n", self.name, "qdisc", "add", "dev", "there", *LOSE_ALL)

    def unplug(self) -> None:
        _may("ip", "link", "set", "here", "down")

    def heal(self) -> None:
        _may("tc", "qdisc", "del", "dev", "here", "root")
        _may("tc", "-n", self.name, "qdisc", "del", "dev", "there", "root")
        _may("ip", "link", "set", "here", "up")

    def remove(self) -> None:
        _may("ip", "netns", "delete", self.name)
        _may("ip", "link", "delete", "here")


def _may(*command: str) -> bool:
    """Run it; did it work?"""
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
