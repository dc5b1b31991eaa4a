"""One tensor model as a client sees it: steps before the engine, the engine, steps after it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing

from shoal.engines.base import TensorEngine
from shoal.engines.specs import check_inputs
from shoal.errors import EngineFailed
from shoal.preproc import Step
from shoal.types import Tensors, TensorSpec


class TensorPipeline:
    """``preproc`` → ``engine`` → ``postproc``. Synchronous, used by one thread at a time.

    Arrays pile up on the way, so that a later step may use what an earlier one made: pooling needs the attention
    mask that tokenisation has written. Clients get the outputs of the last step alone.
    """

    def __init__(self, engine: TensorEngine, *, preproc: Sequence[Step] = (), postproc: Sequence[Step] = ()) -> None:
        self._engine = engine
        self._preproc = tuple(preproc)
        self._postproc = tuple(postproc)
        #: What clients send and get; empty where the model does not say.
        self.inputs: tuple[TensorSpec, ...] = preproc[0].inputs if preproc else engine.inputs
        self.outputs: tuple[TensorSpec, ...] = postproc[-1].outputs if postproc else engine.outputs

    @property
    def batchable(self) -> bool:
        """May rows of several requests share a run?"""
        return self._engine.batchable

    @property
    def streams(self) -> bool:
        """Does the model answer in parts?"""
        return self._engine.streams

    def run(self, inputs: Tensors) -> Tensors:
        """Raises :class:`~shoal.errors.InvalidRequest` and :class:`~shoal.errors.EngineFailed`."""
        made, taken = self._prepare(inputs)
        return self._finish(made, self._engine.run(taken))

    def stream(self, inputs: Tensors) -> Generator[Tensors]:
        """The same in parts; the steps after the engine see each part alone. Closing it stops the engine."""
        made, taken = self._prepare(inputs)
        with closing(self._engine.stream(taken)) as parts:
            for part in parts:
                yield self._finish(made, part)

    def _prepare(self, inputs: Tensors) -> tuple[Tensors, Tensors]:
        """All that is there before the engine runs, and what the engine gets of it."""
        if self._preproc:  # an engine looks at its inputs itself
            check_inputs(inputs, self.inputs)
        made = inputs
        for step in self._preproc:
            made = made | step(_pick(made, step.inputs))
        return made, _pick(made, self._engine.inputs) if self._preproc else inputs

    def _finish(self, made: Tensors, latest: Tensors) -> Tensors:
        for step in self._postproc:
            made = made | latest
            latest = step(_pick(made, step.inputs))
        return latest

    def close(self) -> None:
        self._engine.close()


def _pick(tensors: Tensors, specs: Sequence[TensorSpec]) -> Tensors:
    try:
        return {spec.name: tensors[spec.name] for spec in specs}
    except KeyError as error:
        raise EngineFailed(f"the pipeline is not complete: nothing makes {error}") from error
