"""What a step before or after inference offers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from shoal.types import Tensors, TensorSpec


class Step(Protocol):
    """A pure function of named arrays, with a description of both ends."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What it takes: it is called with these arrays and no others, and they fit."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    def __call__(self, tensors: Tensors) -> Tensors:
        """Raises :class:`~shoal.errors.InvalidRequest` for content it cannot take."""


StepFactory = Callable[[Path], Step]  # from the model's folder; raises ModelLoadFailed
