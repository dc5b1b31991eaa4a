"""One tensor model as a client sees it: steps before the engine, the engine, steps after it.

Without step processes all of it is one synchronous run (:class:`TensorPipeline`), of a whole batch. With them
(:class:`StepPipeline`) the steps of each request run beside the engine, and only what the engine takes joins a batch.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from shoal.batcher import BatchLimits
from shoal.batcher.stacking import count_rows, split, stack
from shoal.engines.base import TensorEngine
from shoal.errors import InvalidRequest, ModelLoadFailed, PayloadTooLarge
from shoal.messages import LoadSteps, RunSteps, StepInfo
from shoal.model_registry import check_inputs
from shoal.preproc import Chain, pick
from shoal.telemetry.tracing import span
from shoal.types import StepSpec, Tensors, TensorSpec


@dataclass(frozen=True, slots=True)
class TensorParts:
    """What a tensor model consists of, before it is joined."""

    engine: TensorEngine
    folder: Path | None  # of the model's files
    preproc: tuple[StepSpec, ...] = ()
    postproc: tuple[StepSpec, ...] = ()

    @property
    def has_steps(self) -> bool:
        return bool(self.preproc or self.postproc)

    def join(self) -> TensorPipeline:
        """All of it in this process. Raises :class:`~shoal.errors.ModelLoadFailed`."""
        return TensorPipeline(
            self.engine,
            preproc=Chain.make(self.preproc, self.folder),
            postproc=Chain.make(self.postproc, self.folder),
        )

    def steps_command(self, timeout: float) -> LoadSteps:
        """For a step process; ``timeout`` in seconds is for one request."""
        return LoadSteps(self.preproc, self.postproc, None if self.folder is None else str(self.folder), timeout)


class TensorPipeline:
    """``preproc`` → ``engine`` → ``postproc``. Synchronous, used by as many threads at a time as the engine can be.

    Arrays pile up on the way, so that a later step may use what an earlier one made: pooling needs the attention
    mask that tokenisation has written. Clients get the outputs of the last step alone.
    """

    def __init__(self, engine: TensorEngine, *, preproc: Chain = Chain(), postproc: Chain = Chain()) -> None:  # noqa: B008
        """Raises :class:`~shoal.errors.ModelLoadFailed` when something takes what nothing before it makes."""
        check_complete(preproc.info, engine, postproc.info)
        self._engine = engine
        self._preproc = preproc
        self._postproc = postproc
        self._steps = threading.Lock()  # are used by one thread at a time
        #: What clients send and get; empty where the model does not say.
        self.inputs, self.outputs = _ends(preproc.info, engine, postproc.info)

    @property
    def batchable(self) -> bool:
        """May rows of several requests share a run?"""
        return self._engine.batchable

    @property
    def streams(self) -> bool:
        """Does the model answer in parts?"""
        return self._engine.streams

    @property
    def runs_at_once(self) -> int:
        return self._engine.runs_at_once

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
        if not self._preproc.info:
            return inputs, inputs
        if self.inputs:  # an engine looks at its inputs itself
            check_inputs(inputs, self.inputs)
        with self._steps:
            made = inputs | self._preproc.run(inputs)[0]
        return made, pick(made, self._engine.inputs)

    def _finish(self, made: Tensors, outputs: Tensors) -> Tensors:
        if not self._postproc.info:
            return outputs
        with self._steps:
            return self._postproc.run(made | outputs)[1]

    def close(self) -> None:
        self._engine.close()


class StepRunner(Protocol):
    """Runs the steps of one request: a :class:`~shoal.preproc.pool.StepPool`."""

    async def run(self, message: RunSteps) -> Tensors: ...

    async def close(self) -> None: ...


class StepPipeline:
    """The same around an engine whose runs somebody else batches. For any number of requests at a time."""

    def __init__(
        self, engine: TensorEngine, *, steps: StepRunner, preproc: Sequence[StepInfo], postproc: Sequence[StepInfo]
    ) -> None:
        """Raises as :class:`TensorPipeline` does."""
        check_complete(preproc, engine, postproc)
        self._steps = steps
        self._engine_inputs = engine.inputs
        self._preproc = tuple(preproc)
        self._postproc = tuple(postproc)
        self._postproc_takes = _taken(postproc)
        self._wanted = _wanted(engine, self._postproc_takes)
        self.inputs, self.outputs = _ends(preproc, engine, postproc)

    async def infer(
        self,
        inputs: Tensors,
        run: Callable[[Tensors], Awaitable[Tensors]],
        limits: BatchLimits | None,
        trace: str = "",
    ) -> Tensors:
        """``run`` is the engine's; ``limits`` those of its batches, if it has any; ``trace`` is a traceparent.

        Raises as :class:`TensorPipeline` does, and what the :class:`StepRunner` raises.
        """

        async def part(number: int, inputs: Tensors) -> Tensors:
            with _counted_from(number * (limits.max_rows if limits else 0)):
                made, taken = await self._prepare(inputs, trace)
                return await self._finish(made, await run(taken), trace)

        self._check(inputs, limits)
        parts = [inputs] if limits is None else _parts(inputs, limits)
        asked = [asyncio.ensure_future(part(number, rows)) for number, rows in enumerate(parts)]
        try:
            return stack(await asyncio.gather(*asked))
        finally:
            for one in asked:
                one.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def stream(
        self,
        inputs: Tensors,
        run: Callable[[Tensors], AsyncGenerator[Tensors]],
        limits: BatchLimits | None,
        trace: str = "",
    ) -> AsyncGenerator[Tensors]:
        """The same of an engine that answers in parts, each of which goes through the steps after it alone."""
        self._check(inputs, limits)
        made, taken = await self._prepare(inputs, trace)
        async with aclosing(run(taken)) as parts:
            async for outputs in parts:
                yield await self._finish(made, outputs, trace)

    def _check(self, inputs: Tensors, limits: BatchLimits | None) -> None:
        if self._preproc and self.inputs:  # an engine looks at its inputs itself
            check_inputs(inputs, self.inputs)
        if limits is not None and (rows := count_rows(inputs)) > limits.max_queue_rows:
            raise PayloadTooLarge(f"the request has {rows} rows; at most {limits.max_queue_rows} are allowed")

    async def _prepare(self, inputs: Tensors, trace: str) -> tuple[Tensors, Tensors]:
        """All that is there before the engine runs, and what the engine gets of it."""
        if not self._preproc:
            return inputs, inputs
        with span("preproc", trace):
            made = inputs | await self._steps.run(RunSteps("preproc", inputs, self._wanted))
        return made, pick(made, self._engine_inputs)

    async def _finish(self, made: Tensors, outputs: Tensors, trace: str) -> Tensors:
        if not self._postproc:
            return outputs
        there, taken = made | outputs, self._postproc_takes
        tensors = there if taken is None else {name: there[name] for name in there if name in taken}
        with span("postproc", trace):
            return await self._steps.run(RunSteps("postproc", tensors))

    async def close(self) -> None:
        await self._steps.close()


def check_complete(preproc: Sequence[StepInfo], engine: TensorEngine, postproc: Sequence[StepInfo]) -> None:
    """Does everyone find what he takes? As far as all say what they take and make.

    Raises :class:`~shoal.errors.ModelLoadFailed`.
    """
    what = StepInfo("the engine", engine.inputs, engine.outputs)
    stages = [*preproc, what, *postproc]
    there = {spec.name for spec in stages[0].inputs}
    if not there:
        return
    for stage in stages:
        missing = [spec.name for spec in stage.inputs if spec.name not in there]
        if missing:
            raise ModelLoadFailed(
                f"the pipeline is not complete: {stage.name} takes '{missing[0]}', which nothing makes"
            )
        if not stage.outputs:
            return
        there |= {spec.name for spec in stage.outputs}


def _ends(
    preproc: Sequence[StepInfo], engine: TensorEngine, postproc: Sequence[StepInfo]
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """What goes in at one end and comes out at the other."""
    return preproc[0].inputs if preproc else engine.inputs, postproc[-1].outputs if postproc else engine.outputs


def _parts(inputs: Tensors, limits: BatchLimits) -> list[Tensors]:
    """As many rows as one run takes in each: steps make much of little, and a request's parts run beside each other."""
    rows, most = count_rows(inputs), limits.max_rows
    return list(split(inputs, [min(most, rows - start) for start in range(0, rows, most)]))


@contextmanager
def _counted_from(row: int) -> Iterator[None]:
    """What is said of a row counts from the beginning of its part."""
    try:
        yield
    except InvalidRequest as error:
        if not row:
            raise
        raise type(error)(f"{error.message} (counted from row {row})", param=error.param) from error


def _taken(steps: Sequence[StepInfo]) -> set[str] | None:
    """What steps take that none of them makes; None: whatever there is."""
    if any(not step.inputs for step in steps):
        return None
    taken, made = set[str](), set[str]()
    for step in steps:
        taken |= {spec.name for spec in step.inputs} - made
        made |= {spec.name for spec in step.outputs}
    return taken


def _wanted(engine: TensorEngine, postproc_takes: set[str] | None) -> tuple[str, ...] | None:
    """Of what preproc makes, what has to come back; None: all of it."""
    if not engine.inputs or postproc_takes is None:
        return None
    made_after = {spec.name for spec in engine.outputs}
    return tuple(sorted({spec.name for spec in engine.inputs} | (postproc_takes - made_after)))
