"""A process keeps the descriptors that it needs itself."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from shoal.api import places as module
from shoal.api.places import COMPLAINT_INTERVAL, RESERVE, Places


class Accepted(asyncio.Transport):
    """A connection with a descriptor of this number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.fileno = lambda: number

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        assert name == "socket"
        return self


def never() -> bool:
    return False


@pytest.mark.parametrize(("limit", "full"), [(1024, 1024 - RESERVE), (100, 50), (-1, 10**9)])
async def test_connections_are_admitted_up_to_a_reserve(limit: int, full: int) -> None:
    places = Places(never, limit=limit)
    assert places.admit(Accepted(full - 1))
    assert places.admit(Accepted(full)) is (limit == -1)


async def test_an_idle_connection_gives_way_to_a_new_one() -> None:
    idle = [True, True, True]
    places = Places(lambda: bool(idle) and idle.pop(), limit=1024)
    assert not places.admit(Accepted(1000)), "half of the reserve stays, whoever could give way"
    assert [places.admit(Accepted(970)) for _ in range(4)] == [True, True, False, False]


def test_refusals_are_told_of_once_in_a_while(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = Places(never, limit=1024)
    with caplog.at_level(logging.WARNING):
        for minute in range(2):
            monkeypatch.setattr(module, "now", lambda at=minute * COMPLAINT_INTERVAL: at)
            for _ in range(100):
                assert not places.admit(Accepted(1000))
    assert [record.getMessage() for record in caplog.records] == [
        "connections are refused: 960 file descriptors are in use (ulimit -n)"
    ] * 2
