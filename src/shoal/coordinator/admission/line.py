"""The line before one model: who runs, who waits, who is told at once that it has no chance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from shoal.batcher.cost import CostFit
from shoal.coordinator.admission.bounds import Refusal
from shoal.coordinator.admission.demand import UsualAnswer
from shoal.coordinator.admission.drain import Drain
from shoal.coordinator.admission.fair_queue import FairQueue, Waiting
from shoal.types import Usage

_WATCHED: Final = 10.0  # seconds after somebody has waited, for which runs are timed


class Line:
    """Times in seconds. ``weight`` of a tenant by its name."""

    def __init__(self, model: str, weight: Callable[[str], float]) -> None:
        self.model = model
        self.queue = FairQueue(weight)
        self.usual_answer = UsualAnswer()
        self.requests = 0  # that run
        self.places = 0  # they take: a row each, or a generation
        self._drain = Drain()
        self._run = CostFit()  # from a request's turn to its end, for its cost
        self._watched_until = float("-inf")

    def refusal(self, waiting: Waiting, free: int, now: float) -> Refusal | None:
        """Why a request that cannot run at once should not wait either; ``free``: how many more may, of all models."""
        self._watched_until = now + _WATCHED
        ahead = self.queue.ahead(waiting)
        if not self.queue.has_room(waiting.tenant, free):
            message = f"{len(self.queue)} requests wait for model '{self.model}', as many as may beside others"
            return Refusal("queue", message, self._drain.seconds_for(ahead, now))
        rate = self._drain.per_second(now)
        left = waiting.deadline - now
        wait = 0.0 if not rate else ahead / rate
        if wait + self._expected_run(waiting.cost, 1.0) <= left:
            return None
        message = (
            f"the deadline is in {max(0.0, left):.3g} s, but model '{self.model}' has more to do than that: "
            f"the wait alone is about {wait:.3g} s"
        )
        return Refusal("deadline", message, self._drain.seconds_for(ahead, now))

    def is_hopeless(self, waiting: Waiting, now: float) -> bool:
        """Would the deadline of one whose turn it is pass while it runs?"""
        return waiting.deadline < now + self._expected_run(waiting.cost, 0.0)

    def began(self, places: int) -> None:
        self.requests += 1
        self.places += places

    def ended(self, places: int) -> None:
        self.requests -= 1
        self.places -= places

    def is_watched(self, now: float) -> bool:
        return now < self._watched_until

    def ran(self, cost: int, seconds: float, *, whole: bool) -> None:
        """A run of a line that is watched. One that broke off says only that it would have taken longer."""
        self._drain.left(cost)
        if whole or seconds > self._expected_run(cost, 0.0):
            self._run.observe(cost, seconds)

    def used(self, waiting: Waiting, usage: Usage) -> None:
        """What a run of a language model really took: its tenant's next turns come the sooner or the later for it."""
        self.usual_answer.ended(usage.completion_tokens)
        self.queue.settle(waiting.tenant, usage.prompt_tokens + usage.completion_tokens - waiting.cost)

    def _expected_run(self, cost: int, errors: float) -> float:
        """With so many usual errors to spare; 0 while it is not known."""
        known = self._run.cost
        return 0.0 if known is None else known.of(cost) * (1 + errors * min(1.0, known.error))
