from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from shoal.clock import ManualClockLoop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"manual-clock": ManualClockLoop}
