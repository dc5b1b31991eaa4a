"""Time as a value that is handed in, and an event loop that jumps from timer to timer.

Decisions get ``now`` as an argument; shells read ``asyncio``'s clock. So a whole cluster can be run in one
:class:`ManualClockLoop`, where a minute of heartbeats takes a millisecond and no test sleeps for luck.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Mapping
from typing import Any


def now() -> float:
    """Seconds on the running loop's clock; only differences mean anything."""
    return asyncio.get_running_loop().time()


class _JumpingSelector(selectors.BaseSelector):
    """Never waits: when nothing is ready, the time until the next timer passes at once."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self.elapsed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._selector.select(0)
        if not ready and timeout is None:
            # Only another thread could wake the loop now, and a simulation has none.
            raise RuntimeError("deadlock: the loop has no timer and nothing to run")
        if not ready and timeout is not None and timeout > 0:
            self.elapsed += timeout
        return ready

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._selector.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._selector.unregister(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._selector.get_map()

    def close(self) -> None:
        self._selector.close()


class ManualClockLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock moves only when every task waits for a timer. For in-memory transports only."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.elapsed
