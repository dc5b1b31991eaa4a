"""The receiving end of a stream that this side opened."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable

from shoal.errors import ShoalError
from shoal.rpc.codec import Buffer


class Inbox:
    """Answers that have come and were not taken yet.

    Bounded by credit: the peer may send ``window`` answers, and ``grant(n)`` lets it send ``n`` more once so many
    were taken. Half a window at a time, so that a stream flows without a frame of credit for every answer.
    ``timeout``: seconds that were given to all of them, for people.
    """

    def __init__(self, window: int, grant: Callable[[int], None], timeout: float | None) -> None:
        self.timeout = timeout
        self._batch = max(1, window // 2)
        self._grant = grant
        self._payloads: collections.deque[Buffer] = collections.deque()
        self._taken = 0  # since credit was last granted
        self._ended = False
        self._error: ShoalError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._payloads)

    @property
    def ended(self) -> bool:
        """Will nothing more come?"""
        return self._ended

    def put(self, payload: Buffer) -> None:
        self._payloads.append(payload)
        self._wake()

    def end(self, error: ShoalError | None = None) -> None:
        """No more will come; with ``error`` the reader is told why, after what had come before. Once only."""
        if not self._ended:
            self._ended, self._error = True, error
            self._wake()

    async def get(self) -> Buffer | None:
        """The next answer, or None after the last. Raises what ended the stream. One reader at a time."""
        while not self._payloads:
            if self._error is not None:
                error, self._error = self._error, None
                try:
                    raise error
                finally:
                    del error  # or it and this frame would hold each other, and all the frames it goes through
            if self._ended:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        payload = self._payloads.popleft()
        self._taken += 1
        if self._taken >= self._batch and not self._ended:
            self._grant(self._taken)
            self._taken = 0
        return payload

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class First:
    """The same of a stream of which only the first answer is wanted: ``future`` has it, None where there was none, or
    what ended the stream."""

    __slots__ = ("future", "timeout")

    def __init__(self, future: asyncio.Future[Buffer | None], timeout: float | None) -> None:
        self.future = future
        self.timeout = timeout

    @property
    def ended(self) -> bool:
        return self.future.done()

    def put(self, payload: Buffer) -> None:
        if not self.future.done():
            self.future.set_result(payload)

    def end(self, error: ShoalError | None = None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(error)
