"""The line before one model: who runs, who waits, who is told at once that it has no chance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from shoal.coordinator.admission.bounds import Refusal
from shoal.coordinator.admission.demand import UsualAnswer
from shoal.coordinator.admission.drain import Drain
from shoal.coordinator.admission.fair_queue import FairQueue, Waiting
from shoal.types import Usage

MARGIN: Final = 1.1  # of an expected wait: one more that waits in vain costs its client more than one that is told
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
        self._runs: dict[int, Span] = {}  # from a turn to its end, for requests of about one cost: of a power of two
        self.is_watched = False  # are runs timed?
        self._watched_until = 0.0

    def refusal(self, waiting: Waiting, free: int, now: float) -> Refusal | None:
        """Why a request that cannot run at once should not wait either; ``free``: how many more may, of all models."""
        self.is_watched, self._watched_until = True, now + _WATCHED
        ahead = self.queue.ahead(waiting)
        if not self.queue.has_room(waiting.tenant, free):
            message = f"{len(self.queue)} requests wait for model '{self.model}', as many as may beside others"
            return Refusal("queue", message, self._drain.seconds_for(ahead, now))
        rate = self._drain.per_second(now)
        left, wait = waiting.deadline - now, ahead / rate if rate else 0.0
        run = self._run(waiting.cost)
        if MARGIN * wait + run.usual + run.deviation <= left:
            return None
        message = f"the deadline is in {max(0.0, left):.3g} s; model '{self.model}' is busy for about {wait:.3g} s"
        message += f" with what came before, and then takes about {run.usual:.3g} s"
        return Refusal("deadline", message, self._drain.seconds_for(ahead, now))

    def is_hopeless(self, waiting: Waiting, now: float) -> bool:
        """Would the deadline of one whose turn it is pass while it runs?"""
        return waiting.deadline < now + self._run(waiting.cost).usual

    def began(self, places: int) -> None:
        self.requests += 1
        self.places += places

    def ended(self, places: int) -> None:
        self.requests -= 1
        self.places -= places

    def look(self, now: float) -> None:
        """Is it still to be watched?"""
        self.is_watched = now < self._watched_until

    def ran(self, cost: int, seconds: float, *, whole: bool) -> None:
        """A run of a line that is watched. One that broke off says only that it would have taken longer."""
        self._drain.left(cost)
        if whole or seconds > self._run(cost).usual:
            self._runs.setdefault(cost.bit_length(), Span()).observe(seconds)

    def used(self, waiting: Waiting, usage: Usage) -> None:
        """What a run of a language model really took: its tenant's next turns come the sooner or the later for it."""
        self.usual_answer.ended(usage.completion_tokens)
        self.queue.settle(waiting.tenant, usage.prompt_tokens + usage.completion_tokens - waiting.cost)

    def _run(self, cost: int) -> Span:
        return self._runs.get(cost.bit_length(), UNKNOWN)


class Span:
    """How long something takes, as TCP estimates a round trip (V. Jacobson, "Congestion avoidance and control",
    SIGCOMM 1988): the mean and the mean deviation, each with more weight on the new. 0 until it is known."""

    def __init__(self) -> None:
        self.usual = 0.0
        self.deviation = 0.0

    def observe(self, seconds: float) -> None:
        if not self.usual:
            self.usual, self.deviation = seconds, seconds / 2
            return
        error = seconds - self.usual
        self.usual += error / 8
        self.deviation += (abs(error) - self.deviation) / 4


UNKNOWN: Final = Span()
