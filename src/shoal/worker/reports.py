"""What a worker tells its coordinators, unasked: its state and models when they change, its load, its metrics.

A coordinator with a thousand workers hears all of them, so nobody is told what it knows already: how models are goes
out when it changes, the load when it is another than the last time, and a heartbeat is only a load.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, KeysView
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from shoal.aio import Tasks
from shoal.clock import now
from shoal.errors import WorkerLost
from shoal.messages import Load, LoadReport, MetricFamily, MetricsReport, Status
from shoal.rpc import Connection
from shoal.types import ModelPart

PAUSE = 0.02  # seconds that changes are collected in one report
METRICS_INTERVAL = 1.0  # seconds
HEARTBEAT = 1.0  # seconds between reports at most, until a coordinator asks for another interval

Measured = Iterable[tuple[ModelPart, Iterable[MetricFamily]]]


@dataclass(slots=True)
class _Told:
    """What one coordinator has heard."""

    status: Status | None = None
    load: Load = Load()  # noqa: RUF009  (it is frozen)
    at: float = 0.0
    metrics: dict[tuple[ModelPart, str], MetricFamily] = field(default_factory=dict)

    def news(self, status: Status, now: float, silence: float) -> Status | LoadReport | None:
        """What it has to hear, if anything; from then on it has. After ``silence`` seconds something always is."""
        before = self.status
        known = before is not None and (before.state, before.models) == (status.state, status.models)
        if known and self.load == status.load and now - self.at < silence:
            return None
        self.status, self.load, self.at = status, status.load, now
        return LoadReport(status.load) if known else status


class Reports:
    """``describe`` says how the worker is, ``measure`` what its models have measured since they began."""

    def __init__(self, describe: Callable[[], Status], measure: Callable[[], Measured]) -> None:
        self._describe = describe
        self._measure = measure
        self._told: dict[Connection, _Told] = {}
        self._heartbeat = HEARTBEAT
        self._changed = asyncio.Event()

    @property
    def coordinators(self) -> KeysView[Connection]:
        """Those that the worker is registered with."""
        return self._told.keys()

    @contextmanager
    def told_to(self, coordinator: Connection, heartbeat: float) -> Iterator[None]:
        """Tell it as well, at least every ``heartbeat`` seconds, while the block runs."""
        self._heartbeat = min(self._heartbeat, heartbeat)
        self._told[coordinator] = _Told()
        self.changed()
        try:
            yield
        finally:
            del self._told[coordinator]

    def start(self, tasks: Tasks) -> None:
        tasks.start(self._report(), name="report status")
        tasks.start(self._report_metrics(), name="report metrics")

    def changed(self) -> None:
        """There may be something to tell, soon."""
        self._changed.set()

    def tell(self) -> None:
        """Tell it now."""
        status, at = self._describe(), now()
        for coordinator, told in self._told.items():
            if (news := told.news(status, at, self._heartbeat - 2 * PAUSE)) is not None:
                with suppress(WorkerLost):
                    coordinator.notify(news)

    async def _report(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), self._heartbeat - 2 * PAUSE)
            await asyncio.sleep(PAUSE)
            self._changed.clear()
            self.tell()

    async def _report_metrics(self) -> None:
        while True:
            await asyncio.sleep(METRICS_INTERVAL)
            for part, families in self._measure():
                for coordinator, told in list(self._told.items()):
                    news = [family for family in families if told.metrics.get((part, family.name)) is not family]
                    told.metrics |= {(part, family.name): family for family in news}
                    if news:
                        with suppress(WorkerLost):
                            coordinator.notify(MetricsReport(str(part), tuple(news)))
