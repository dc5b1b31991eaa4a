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
        self._full = None if soft == resource.RLIM_INFINITY else max(soft - RESERVE, soft // 2)
        self._give_way = give_way
        self._complained = -COMPLAINT_INTERVAL

    def admit(self, transport: asyncio.BaseTransport) -> bool:
        """Is there a place for a connection that was just accepted?"""
        if self._full is None or transport.get_extra_info("socket").fileno() < self._full or self._give_way():
            return True
        if now() - self._complained >= COMPLAINT_INTERVAL:
            self._complained = now()
            extra = {"action": "connection_refused", "limit": self._full}
            logger.warning(
                "connections are refused: %d file descriptors are in use (ulimit -n)", self._full, extra=extra
            )
        return False
