"""How each worker is, as metrics: read from the fleet when somebody asks, so that no number has to be kept in step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shoal.cluster import Member


class WorkerStates(Collector):
    def __init__(self, members: Callable[[], Sequence[Member]]) -> None:
        self._members = members

    def collect(self) -> Iterable[Metric]:
        state = GaugeMetricFamily("shoal_worker_state", "1 for the state a worker is in.", labels=("worker", "state"))
        suspect = GaugeMetricFamily("shoal_worker_suspect", "1 for a worker that is silent.", labels=("worker",))
        busy = GaugeMetricFamily("shoal_worker_in_flight_requests", "Requests a worker has.", labels=("worker",))
        for member in self._members():
            state.add_metric((member.worker_id, member.state), 1)
            suspect.add_metric((member.worker_id,), member.suspect)
            busy.add_metric((member.worker_id,), member.in_flight)
        return (state, suspect, busy)

    def describe(self) -> Iterable[Metric]:
        return ()
