"""What one request has been through on its way to an answer."""

from __future__ import annotations

from collections.abc import Collection

from shoal.coordinator.observation import Observation
from shoal.errors import ShoalError
from shoal.model_registry import ModelSpec
from shoal.types import ModelId, ModelPart, WorkerId


class Journey:
    """``deadline`` is on the loop's clock."""

    __slots__ = ("_failures", "_tried", "asked_for", "deadline", "observation")

    def __init__(self, asked_for: ModelSpec, deadline: float, observation: Observation) -> None:
        self.asked_for = asked_for
        self.deadline = deadline
        self.observation = observation
        self._tried: dict[ModelPart, set[WorkerId]] = {}
        self._failures: dict[str, ShoalError] = {}  # by model, in the order in which they were asked

    def tried(self, part: ModelPart) -> Collection[WorkerId]:
        """Workers that are not to be asked for it any more."""
        return self._tried.get(part, ()) if self._tried else ()

    def try_no_more(self, part: ModelPart, worker_id: WorkerId) -> None:
        self._tried.setdefault(part, set()).add(worker_id)

    def try_all_again(self, part: ModelPart) -> None:
        self._tried.pop(part, None)

    def failed(self, model: ModelId | str, error: ShoalError) -> None:
        """This model cannot answer; the first reason stays."""
        name = model if isinstance(model, str) or model.name == self.asked_for.name else model.name
        self._failures.setdefault(str(name), error)

    def failed_with(self, model: ModelId, error: ShoalError, now: float) -> None:
        """The same. Raises the error where no other model may be asked."""
        if not error.retryable or now >= self.deadline:
            try:
                raise error
            finally:
                del error  # or it and this frame would hold each other, and the whole request
        error.with_traceback(None)  # it is kept by what its frames hold
        self.failed(model, error)

    def final_error(self) -> ShoalError:
        """The error of the model that was asked for, which names those that were to stand in for it and why not."""
        (first, *others) = self._failures.items()
        self._failures = {}
        if not others:
            return first[1]
        why = "".join(f"; in its place '{name}': {error.message}" for name, error in others)
        error = first[1]
        return type(error)(error.message + why, param=error.param, retry_after=error.retry_after)
