"""How many connections may be open: as many as the process has descriptors for, less some that it needs itself."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Callable

from shoal.clock import now

logger = logging.getLogger(__name__)

RESERVE = 64  # descriptors for workers, files, and a few connections accepted in one turn of the loop
COMPLAINT_INTERVAL = 60.0  # seconds


class Places:
    """Turns connections away before the process has no descriptor left, when nothing works any more.

    The kernel gives the lowest number that is free, so the number of a new connection says how many are taken:
    nothing has to be counted. ``give_way`` closes an idle connection, if there is one, and says so.
    """

    def __init__(self, give_way: Callable[[], bool], *, limit: int | None = None) -> None:
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if limit is None else limit
        self._bounded = soft != resource.RLIM_INFINITY
        self._full = max(soft - RESERVE, soft // 2)
        # One that gives way frees its place a turn later. Without an end to this a crowd would take the reserve too.
        self._end = (soft + self._full) // 2
        self._give_way = give_way
        self._complained = -COMPLAINT_INTERVAL

    def admit(self, transport: asyncio.BaseTransport) -> bool:
        """Is there a place for a connection that was just accepted?"""
        number = transport.get_extra_info("socket").fileno()
        if not self._bounded or number < self._full:
            return True
        if self._give_way() and number < self._end:
            return True
        if now() - self._complained >= COMPLAINT_INTERVAL:
            self._complained = now()
            extra = {"action": "connection_refused", "limit": self._full}
            logger.warning(
                "connections are refused: %d file descriptors are in use (ulimit -n)", self._full, extra=extra
            )
        return False
