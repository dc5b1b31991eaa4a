"""The steps of one side of the engine, in order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from shoal.errors import EngineFailed, ShoalError
from shoal.messages import StepInfo
from shoal.preproc.base import Step
from shoal.preproc.names import make_step
from shoal.types import StepSpec, Tensors, TensorSpec


class Chain:
    """Arrays pile up on the way, so that a later step may use what an earlier one made."""

    def __init__(self, steps: Sequence[tuple[str, Step]] = ()) -> None:
        self._steps = tuple(steps)
        self.info = tuple(StepInfo(name, step.inputs, step.outputs) for name, step in steps)

    @classmethod
    def make(cls, specs: Sequence[StepSpec], folder: Path | None) -> Self:
        """Raises :class:`~shoal.errors.ModelLoadFailed` that names the step that cannot be made."""
        return cls([(spec.name, make_step(spec, folder)) for spec in specs])

    def run(self, given: Tensors) -> tuple[Tensors, Tensors]:
        """All that the steps made, and what the last of them did.

        Raises :class:`~shoal.errors.InvalidRequest` for content that a step cannot take, and
        :class:`~shoal.errors.EngineFailed` that names the step when it fails.
        """
        made: Tensors = {}
        latest: Tensors = {}
        for name, step in self._steps:
            latest = _run_one(name, step, pick(given | made, step.inputs))
            made |= latest
        return made, latest


def pick(tensors: Tensors, specs: Sequence[TensorSpec]) -> Tensors:
    """What somebody takes who says ``specs`` of himself: all there is when he says nothing."""
    if not specs:
        return tensors
    try:
        return {spec.name: tensors[spec.name] for spec in specs}
    except KeyError as error:
        raise EngineFailed(f"the pipeline is not complete: nothing makes {error}") from error


def _run_one(name: str, step: Step, tensors: Tensors) -> Tensors:
    try:
        return step(tensors)
    except EngineFailed as error:
        raise EngineFailed(f"step '{name}' failed: {error.message}") from error
    except ShoalError:
        raise  # a step that knows our errors chose one
    except (Exception, SystemExit) as error:  # the border to the steps' code
        raise EngineFailed(f"step '{name}' failed: {type(error).__name__}: {error}") from error
