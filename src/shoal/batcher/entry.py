"""Rows on their way through a batcher, and their answer on its way back."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable

from shoal.errors import Overloaded
from shoal.types import Tensors

MAX_PARTS = 256  # of a streamed answer, made and not yet taken


class Entry:
    """Rows that wait for a run or are in one. Its answer comes in parts, usually one, and has exactly one end."""

    __slots__ = (
        "_end",
        "_parts",
        "_reader",
        "arrived",
        "begun",
        "deadline",
        "inputs",
        "key",
        "left",
        "rank",
        "rows",
        "trace",
    )

    def __init__(
        self,
        inputs: Tensors,
        rows: int,
        *,
        key: Hashable,
        arrived: float,
        rank: float,
        deadline: float | None,
        trace: str = "",
    ) -> None:
        self.inputs = inputs
        self.rows = rows
        self.key = key
        self.arrived = arrived
        self.rank = rank
        self.deadline = deadline  # on the loop's clock
        self.trace = trace  # traceparent of what asked for it
        self.begun = False  # has a part of its answer been made?
        self.left = False  # is there nobody who waits for it any more?
        self._parts: deque[Tensors] = deque()
        self._end: Exception | bool = False
        self._reader: asyncio.Future[None] | None = None

    @property
    def done(self) -> bool:
        """Has it its whole answer, or does nobody want it any more?"""
        return self.left or self._end is not False

    def give(self, part: Tensors) -> None:
        """A part of the answer. A reader that is too far behind loses the rest: its batch-mates do not wait for it."""
        if self.done:
            return
        if len(self._parts) >= MAX_PARTS:
            self.end(Overloaded(f"the answer was not taken: {MAX_PARTS} parts of it are waiting"))
            return
        self.begun = True
        self._parts.append(part)
        self._wake()

    def end(self, error: Exception | None = None) -> None:
        if not self.done:
            self._end = error or True
            self._wake()

    def leave(self) -> None:
        """Nobody waits for the answer any more."""
        self.left = True
        self._parts.clear()

    async def next(self) -> Tensors | None:
        """The next part, or None behind the last. Raises what ended the answer."""
        while not self._parts:
            if isinstance(self._end, Exception):
                raise self._end
            if self._end:
                return None
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        return self._parts.popleft()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
