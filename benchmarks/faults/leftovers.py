"""What is left behind when all is over: requests, KV memory, sockets, files, threads, processes."""

from __future__ import annotations

import contextlib
import time
from collections import Counter

import psutil

from faults.cluster import Cluster

PATIENCE = 15.0  # seconds until what was struck has come to rest


def held(cluster: Cluster) -> Counter[str]:
    """Everything that could be left behind, as it is now."""
    found = Counter[str]()
    found["requests"] = int(cluster.metric("shoal_in_flight_requests"))
    for address in cluster.addresses:
        workers = cluster.workers_of(address)
        found["requests at workers"] += sum(worker["in_flight"] + worker["waiting"] for worker in workers)
        found["KV memory"] += sum(worker["kv_used"] > 0 for worker in workers)
    for process in cluster.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            found["processes"] += 1
            connections = len(process.net_connections("tcp"))
            found["sockets"] += connections
            found["files"] += process.num_fds() - connections
            found["threads"] += process.num_threads()
    return found


def left_behind(cluster: Cluster, before: Counter[str]) -> Counter[str]:
    """What is more than before, once it has had time to go away."""
    deadline = time.monotonic() + PATIENCE
    while True:
        left = held(cluster)
        left.subtract(before)
        more = +left
        if not more or time.monotonic() > deadline:
            return more
        time.sleep(0.2)


def memory(cluster: Cluster) -> int:
    """Bytes that the coordinators and the workers have, without their engines."""
    total = 0
    for process in (*cluster.coordinators, *cluster.workers):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.main.memory_info().rss
    return total
