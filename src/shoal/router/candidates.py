"""What the router sees of the fleet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from shoal.load_balancer import Replica
from shoal.types import ModelId, ModelState, WorkerId


class Candidate(msgspec.Struct, frozen=True):
    """A worker that has a model, in whatever state both are."""

    replica: Replica
    model_state: ModelState
    reason: str = ""  # why the model failed, or why the worker has gone

    @property
    def worker_id(self) -> WorkerId:
        return self.replica.worker_id


class Fleet(Protocol):
    def candidates(self, model: ModelId, now: float) -> Sequence[Candidate]:
        """Every worker that has the model, those that have just gone included. ``now`` is in seconds."""
