from __future__ import annotations

import asyncio

from shoal.clock import now
from shoal.rpc.deadlines import Deadlines

Late = list[tuple[float, int]]


def made(late: Late) -> Deadlines:
    return Deadlines(lambda stream_id: late.append((now(), stream_id)))


async def test_each_is_told_at_its_own_time_and_never_once_it_is_removed() -> None:
    late: Late = []
    deadlines = made(late)
    for stream_id, due in ((1, 5.0), (3, 2.0), (5, 3.0), (7, 2.0)):
        deadlines.add(stream_id, due)
    deadlines.remove(5)
    deadlines.remove(5)
    await asyncio.sleep(10)
    assert late == [(2.0, 3), (2.0, 7), (5.0, 1)]
    assert len(deadlines) == 0


async def test_one_that_is_due_sooner_than_all_others_is_told_in_time() -> None:
    late: Late = []
    deadlines = made(late)
    deadlines.add(1, 60.0)
    await asyncio.sleep(1)
    deadlines.add(3, 1.5)
    await asyncio.sleep(100)
    assert late == [(1.5, 3), (60.0, 1)]


async def test_one_timer_serves_all() -> None:
    """A thousand answers that come in time: the timer rings no more often than it takes to see that nobody waits."""
    rings = 0

    class Counted(Deadlines):
        def _ring(self) -> None:
            nonlocal rings
            rings += 1
            super()._ring()

    deadlines = Counted(lambda _stream_id: None)
    for stream_id in range(1000):
        deadlines.add(stream_id, now() + 5)
        await asyncio.sleep(0.01)
        deadlines.remove(stream_id)
    assert rings == 2


async def test_who_is_told_may_end_the_connection() -> None:
    late: Late = []

    def lose(stream_id: int) -> None:
        late.append((now(), stream_id))
        deadlines.clear()

    deadlines = Deadlines(lose)
    for stream_id in (1, 3, 5):
        deadlines.add(stream_id, 2.0)
    await asyncio.sleep(10)
    assert late == [(2.0, 1)]
    assert deadlines._timer is None
