"""Run a node in this process until it ends or is told to."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
from collections.abc import Callable
from typing import Protocol

import uvloop

YOUNG_OBJECTS = 10_000  # until the collector looks at them


class Node(Protocol):
    """Something that runs in a process of its own."""

    async def start(self) -> str:
        """Returns the address it serves on."""

    async def wait_stopped(self) -> None:
        """Return when it has a reason of its own to end."""

    async def stop(self) -> None:
        """End in order: what runs may finish, within a deadline."""


def run(build: Callable[[], Node]) -> None:
    """Build a node in an event loop and run it. SIGINT and SIGTERM stop it in order, a second one at once."""
    _allow_descriptors()
    uvloop.run(_run(build))


def _allow_descriptors() -> None:
    """As many as this process may have: the soft limit of 1,024 is for programs that use select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # where there is no hard limit the system has one of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _run(build: Callable[[], Node]) -> None:
    told = asyncio.Event()

    def on_signal() -> None:
        if told.is_set():
            # Children see the end of their pipes and leave by themselves.
            os._exit(130)
        told.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    node = build()
    reasons = [asyncio.ensure_future(told.wait()), asyncio.ensure_future(_live(node))]
    try:
        done, _ = await asyncio.wait(reasons, return_when=asyncio.FIRST_COMPLETED)
        for reason in done:
            reason.result()
    finally:
        for reason in reasons:
            reason.cancel()
        await node.stop()


async def _live(node: Node) -> None:
    await node.start()
    _collect_rarely()
    await node.wait_stopped()


def _collect_rarely() -> None:
    """What is there once a node has started stays: the collector need not look at it again and again. And with some
    requests at a time there are always more than its 700 new objects, nearly all of which reference counting frees."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)
