"""Work for a client ends when the client goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self

from shoal.errors import Cancelled

#: Seconds before the connection is watched. What is done sooner is not worth a task of its own.
GRACE = 0.005


class ClientWatch:
    """Cancels the block it guards when the client disconnects; the block then raises :class:`Cancelled`.

    It owns ``receive`` while the block runs. Like :func:`asyncio.timeout` it takes back only the cancellation
    that it made: one from outside passes through.
    """

    def __init__(self, receive: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
        self._receive = receive
        self._gone = False
        self._watcher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        block = asyncio.current_task()
        assert block is not None
        self._block = block
        self._cancelling = block.cancelling()
        self._timer = asyncio.get_running_loop().call_later(GRACE, self._start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if self._gone and self._block.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise Cancelled("the client went away") from error

    def _start(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._watch(), name="client watch")

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._block.cancel()
