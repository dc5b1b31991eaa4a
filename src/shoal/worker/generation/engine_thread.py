"""The one thread that an engine is used from: it takes a piece of work at a time, in order.

An executor has a future of its own for each, beside the event loop's, and tells of it in two turns of the loop; while
it does, no step runs.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class EngineThread:
    """To be made and used in an event loop. It ends with its process, or when it is closed and has done all it has."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._work: SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None] = SimpleQueue()
        # A daemon: a step that never ends must not keep the process.
        threading.Thread(target=self._serve, name="engine", daemon=True).start()

    def run(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """What ``work`` returns or raises."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._work.put((work, future))
        return future

    def close(self) -> None:
        """Take nothing more; what was given before is still done."""
        self._work.put(None)

    def _serve(self) -> None:
        while (item := self._work.get()) is not None:
            work, future = item
            outcome, error = None, None
            try:
                outcome = work()
            except Exception as raised:  # a border: whoever awaits it raises it
                error = raised
            try:
                self._loop.call_soon_threadsafe(_settle, future, outcome, error)
            except RuntimeError:  # the loop is closed, so nobody waits
                return


def _settle(future: asyncio.Future[Any], outcome: Any, error: Exception | None) -> None:
    if future.done():  # nobody waits any more
        return
    if error is None:
        future.set_result(outcome)
    else:
        future.set_exception(error)
