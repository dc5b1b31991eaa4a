"""Threads for the slow part of a request's beginning, so that who leaves does not wait for it nor pile it up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from shoal.errors import ModelUnavailable, Overloaded

T = TypeVar("T")

RETRY_AFTER = 2.0  # seconds


class Offload:
    """At most ``threads`` pieces of work at a time; the others wait in the event loop, where leaving is at once.

    A thread cannot be ended: work that nobody wants any more sees its event set and keeps its place until it ends.
    """

    def __init__(self, threads: int, name: str, *, most: int | None = None) -> None:
        """``most``: pieces of work, those that wait with them; beyond it they are refused. None: whoever calls bounds
        them."""
        self._name = name
        self._most = most
        self._taken = 0
        self._places = asyncio.Semaphore(threads)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._closed = False

    async def run(self, work: Callable[[threading.Event], T]) -> T:
        """Raises what ``work`` raises, :class:`~shoal.errors.ModelUnavailable` once this is closed, and
        :class:`~shoal.errors.Overloaded`."""
        if self._most is not None and self._taken >= self._most:
            message = f"{self._taken} requests are at the step `{self._name}` for this model; no more may be at a time"
            raise Overloaded(message, retry_after=RETRY_AFTER)
        self._taken += 1
        try:
            return await self._run(work)
        finally:
            self._taken -= 1

    async def _run(self, work: Callable[[threading.Event], T]) -> T:
        await self._places.acquire()
        if self._closed:
            self._places.release()
            raise ModelUnavailable("the model is being unloaded")
        unwanted = threading.Event()
        future = asyncio.get_running_loop().run_in_executor(self._pool, work, unwanted)
        future.add_done_callback(self._ended)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            unwanted.set()
            raise

    def _ended(self, future: asyncio.Future[T]) -> None:
        self._places.release()
        if not future.cancelled():
            future.exception()  # whoever would have taken it may have left

    def close(self) -> None:
        """Begin nothing more; what runs ends by itself."""
        self._closed = True
        self._pool.shutdown(wait=False)
