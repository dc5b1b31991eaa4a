"""The attempts at one request to one model, or to a shard of it: what they have come to, whether another follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from shoal.coordinator.continuation import Continuation
from shoal.coordinator.journey import Journey
from shoal.errors import EngineFailed, Overloaded, ShoalError, WorkerLost
from shoal.load_balancer import RetryBudget
from shoal.messages import Answer, Generate, Infer
from shoal.model_registry import ModelSpec
from shoal.router import RoutingDecision
from shoal.types import WorkerId

PATIENCE: Final = 30.0  # seconds that a request which lost its worker waits for another: as long as a restart takes


@dataclass(frozen=True, slots=True)
class Loss:
    """Why and when a request was last without a worker, and whether it waits for another."""

    error: ShoalError
    at: float
    patient: bool
    since: float  # when the answer was interrupted, however many workers were asked for the rest since then


class Attempts:
    """``suspects``: silent workers are asked too, where no other can."""

    __slots__ = (
        "_answer_so_far",
        "_broken",
        "_budget",
        "failure",
        "journey",
        "loss",
        "part",
        "request",
        "spec",
        "suspects",
    )

    def __init__(
        self, request: Generate | Infer, spec: ModelSpec, journey: Journey, budget: RetryBudget, *, suspects: bool
    ) -> None:
        self.request = request
        self.spec = spec
        self.journey = journey
        self.suspects = suspects
        self.part = spec.part(request.shard) if isinstance(request, Infer) else spec.whole
        self.loss: Loss | None = None
        self.failure: tuple[RoutingDecision, ShoalError] | None = None  # of the one before the next
        self._broken: frozenset[WorkerId] = frozenset()  # whose engine failed at it
        self._budget = budget
        self._answer_so_far = Continuation(request)

    @property
    def begun(self) -> bool:
        """Has anything of the answer gone out?"""
        return self._answer_so_far.begun

    @property
    def begins_anew(self) -> bool:
        """Does the next worker compute what has gone out once more?"""
        return self._answer_so_far.begins_anew

    def asking(self) -> Generate | Infer:
        """The request for the next worker."""
        return self._answer_so_far.asking()

    def is_known(self, answer: Answer) -> bool:
        """Has this part gone out before?"""
        return self._answer_so_far.is_known(answer)

    def passed_on(self, answer: Answer) -> Loss | None:
        """This part goes out. Returns what the answer had been interrupted by, if it goes on with it."""
        loss, self.loss = self.loss, None
        resumed = loss if self.begun else None
        self._answer_so_far.passed_on(answer)
        return resumed

    def failed(self, decision: RoutingDecision, error: ShoalError, now: float) -> None:
        """This worker did not answer. Raises its error unless another may be asked."""
        self.journey.try_no_more(self.part, decision.worker_id)
        if isinstance(error, EngineFailed):
            self._broken |= {decision.worker_id}
        self._answer_so_far.failed(error)
        over = not error.retryable or not self._answer_so_far.can_go_on or now >= self.journey.deadline
        if over or ((self.begins_anew or not self.begun) and not self._budget.withdraw()):
            try:
                raise error
            finally:
                del error  # or it and this frame would hold each other, and the whole request
        error.with_traceback(None)  # it is kept by what its frames hold
        patient = self.begun or (isinstance(error, WorkerLost | Overloaded) and not self.spec.settings.fallback)
        earlier = self.loss or Loss(error, now, patient, since=now)
        self.loss = Loss(error, now, earlier.patient or patient, earlier.since)
        self.failure = decision, error

    def none_to_ask(self, error: ShoalError, now: float) -> None:
        """There is no worker for it now. Raises unless it waits for one: a request that lost its worker does, until
        one is free or comes back, and so does one that finds all of them full. By then those that were tried may have
        been started again; one whose engine failed at it is asked once more only where no other is left."""
        waits = isinstance(error, Overloaded) and not self.spec.settings.fallback  # others can, once they have room
        if self.loss is None:
            if not waits or now >= self.journey.deadline:
                try:
                    raise error
                finally:
                    del error  # as above
        elif not (self.loss.patient or waits) or now >= min(self.journey.deadline, self.loss.at + PATIENCE):
            lost, self.loss, self.failure = self.loss.error, None, None
            try:
                raise lost from error
            finally:
                del lost, error  # as above
        self.journey.try_all_again(self.part)
        if isinstance(error, Overloaded):
            for worker_id in self._broken:
                self.journey.try_no_more(self.part, worker_id)
