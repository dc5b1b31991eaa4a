from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from shoal.api.app import DEFAULT_LIMITS, build_app
from shoal.api.limits import ApiLimits
from shoal.api.listener import Listener
from shoal.api.testing import FakePlane


@asynccontextmanager
async def _serve(plane: FakePlane, limits: ApiLimits = DEFAULT_LIMITS) -> AsyncIterator[str]:
    def native() -> asyncio.Protocol:
        raise AssertionError("nobody here speaks the native protocol")

    listener = Listener(build_app(plane, metrics=bytes, limits=limits), native, drain_timeout=1)
    address = await listener.start("127.0.0.1", 0)
    try:
        yield address
    finally:
        await listener.stop()


@pytest.fixture
def serve() -> Callable[..., AbstractAsyncContextManager[str]]:
    """``async with serve(plane, limits) as address``: the application on a real socket."""
    return _serve
