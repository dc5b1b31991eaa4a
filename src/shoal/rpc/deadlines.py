"""When the answers of many streams are due."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable


class Deadlines:
    """Calls ``late(stream_id)`` for each that is still here when it is due, on the loop's clock.

    With one timer for all of them: nearly every answer comes long before, and a timer costs more than to look once in a
    while at all who wait.
    """

    def __init__(self, late: Callable[[int], None]) -> None:
        self._late = late
        self._loop = asyncio.get_running_loop()
        self._due: dict[int, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._rings = math.inf  # when the timer does

    def __len__(self) -> int:
        return len(self._due)

    def add(self, stream_id: int, due: float) -> None:
        self._due[stream_id] = due
        if due < self._rings:
            self._set(due)

    def remove(self, stream_id: int) -> None:
        self._due.pop(stream_id, None)

    def clear(self) -> None:
        self._due.clear()
        self._set(math.inf)

    def _set(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings = at
        self._timer = None if at == math.inf else self._loop.call_at(at, self._ring)

    def _ring(self) -> None:
        at = self._loop.time()
        for stream_id in [stream_id for stream_id, due in self._due.items() if due <= at]:
            if self._due.pop(stream_id, None) is not None:
                self._late(stream_id)
        self._set(min(self._due.values(), default=math.inf))
