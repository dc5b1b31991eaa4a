"""A request's turn at a worker: it came at once, is timed because others had to wait lately, or is waited for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from shoal.clock import now
from shoal.coordinator.admission.fair_queue import Waiting
from shoal.coordinator.admission.line import Line
from shoal.coordinator.observation import is_last
from shoal.errors import DeadlineExceeded, ShoalError
from shoal.messages import Answer, Chunk

if TYPE_CHECKING:
    from shoal.coordinator.admission.turns import Crowd, Turns


class Turn:
    """It has come, and takes ``places`` in the line until it is left, once."""

    __slots__ = ("_line", "_places", "_turns")

    def __init__(self, turns: Turns, line: Line, places: int) -> None:
        self._turns = turns
        self._line = line
        self._places = places

    @property
    def waits(self) -> bool:
        return False

    async def wait(self) -> None:
        """Raises :class:`DeadlineExceeded` when it does not come in time."""

    def leave(self, last: Answer | None) -> None:
        """The request has ended; ``last``: what it was answered with at last."""
        self._line.ended(self._places)
        self._turns.changed()


class TimedTurn(Turn):
    """``began`` is on the loop's clock."""

    __slots__ = ("_began", "_waiting")

    def __init__(self, turns: Turns, line: Line, places: int, waiting: Waiting, began: float) -> None:
        super().__init__(turns, line, places)
        self._waiting = waiting
        self._began = began

    def leave(self, last: Answer | None) -> None:
        line, waiting = self._line, self._waiting
        line.ran(waiting.cost, now() - self._began, whole=last is not None and is_last(last))
        if isinstance(last, Chunk) and last.usage is not None:
            line.used(waiting, last.usage)
        super().leave(last)


class WaitingTurn(TimedTurn):
    __slots__ = ("_crowd", "_error", "_future", "_timer", "_waits")

    def __init__(self, turns: Turns, crowd: Crowd, places: int, waiting: Waiting) -> None:
        super().__init__(turns, crowd.line, places, waiting, 0.0)
        loop = asyncio.get_running_loop()
        self._crowd = crowd
        self._waits = True
        self._error: ShoalError | None = None
        self._future: asyncio.Future[None] = loop.create_future()
        self._timer = loop.call_at(waiting.deadline, self._late)

    @property
    def waits(self) -> bool:
        return self._waits

    async def wait(self) -> None:
        await self._future
        if self._error is not None:
            raise self._error

    def come(self, at: float) -> None:
        """For the line: it is out of the queue."""
        self._waits, self._began = False, at
        self._line.began(self._places)
        self._end()

    def fail(self, error: ShoalError) -> None:
        """The same, and it does not come any more."""
        self._error = error
        self._end()

    def leave(self, last: Answer | None) -> None:
        if not self._waits:
            super().leave(last)
            return
        self._end()
        self._turns.withdraw(self._waiting, self._crowd)

    def _late(self) -> None:
        self._turns.withdraw(self._waiting, self._crowd)
        self.fail(DeadlineExceeded("the deadline passed while the request waited for a worker"))

    def _end(self) -> None:
        self._timer.cancel()
        if not self._future.done():  # it is when its client has left
            self._future.set_result(None)
