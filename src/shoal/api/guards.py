"""Blocks that end when the client goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any

from shoal.aio import Guard
from shoal.errors import Cancelled

#: Seconds before the connection is watched. What is done sooner is not worth a task of its own.
GRACE = 0.005
GONE = "the client went away"


class ClientWatch(Guard):
    """Raises :class:`Cancelled` when the client disconnects while its block runs. It owns ``receive`` meanwhile.

    ``when_gone`` calls what it is given when that happens, until it is given None, and says False when it has happened
    already; a server that has no such thing is asked for what the client sends, by a task.
    """

    def __init__(
        self,
        receive: Callable[[], Awaitable[Mapping[str, Any]]],
        when_gone: Callable[[Callable[[], None] | None], bool] | None = None,
    ) -> None:
        super().__init__()
        self._receive = receive
        self._when_gone = when_gone
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        super().__enter__()
        if self._when_gone is None:
            self._timer = asyncio.get_running_loop().call_later(GRACE, self._start)
        elif not self._when_gone(self._gone):
            raise Cancelled(GONE)

    def _start(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._watch(), name="client watch")

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone()

    def _gone(self) -> None:
        self.interrupt(Cancelled(GONE))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._when_gone is not None:
            self._when_gone(None)
        if self._timer is not None:
            self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        super().__exit__(kind, error, trace)
