"""One model, loaded and answering: the same face for a model in this process and for one in a child process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

from shoal.batcher import NO_OBSERVER, Batcher, BatchLimits, BatchObserver, Padding
from shoal.errors import InvalidRequest
from shoal.messages import Chunk, Generate, Infer, Inferred, Load, MetricFamily, ModelInfo
from shoal.types import Tensors
from shoal.worker.generation import GenerationLoop
from shoal.worker.pipeline import StepPipeline, TensorPipeline

logger = logging.getLogger(__name__)

T = TypeVar("T")

RUN_LIMIT = 300.0  # seconds: a run that takes longer will not end any more

Send = Callable[[Inferred], Awaitable[None]]  # raises where nobody wants more


class ModelRuntime(Protocol):
    """What a worker holds for each of its models."""

    @property
    def infer_now(self) -> Callable[[Infer], Inferred] | None:
        """In place of :meth:`infer` for a model that waits for nothing, and takes no longer than a task would."""

    @property
    def info(self) -> ModelInfo:
        """What the worker tells of the model: its state, and why if it failed."""

    def load(self) -> Load: ...

    def metrics(self) -> Iterable[MetricFamily]:
        """What it has measured since it began, for the coordinators to show. A family that has not changed is the same
        object as the last time."""

    def generate(self, request: Generate, *, deadline: float | None) -> AsyncGenerator[Chunk]:
        """What cannot begin by ``deadline`` (on the loop's clock) is refused; closing the generator aborts the
        generation within a step."""

    async def infer(self, request: Infer, send: Send, *, deadline: float | None) -> None:
        """``send`` gets the parts of the answer, the last of which says that it is. Past ``deadline`` (on the loop's
        clock) a run is not begun any more; cancelling gives the place in the queue back."""

    def start(self, changed: Callable[[], None]) -> None:
        """Begin to load; ``changed`` is called whenever ``info`` or the load has."""

    async def close(self) -> None: ...


class LanguageRuntime:
    """A language model in this process."""

    infer_now = None

    def __init__(self, info: ModelInfo, loop: GenerationLoop) -> None:
        self.info = info
        self._loop = loop

    def load(self) -> Load:
        return self._loop.load()

    def metrics(self) -> Iterable[MetricFamily]:
        return ()  # of an engine in this process: whoever made it has its registry

    def generate(self, request: Generate, *, deadline: float | None) -> AsyncGenerator[Chunk]:
        return self._loop.generate(request, deadline=deadline)

    async def infer(self, request: Infer, send: Send, *, deadline: float | None) -> None:
        raise InvalidRequest(f"model '{self.info.name}' generates text, it does not infer on tensors", param="model")

    def start(self, changed: Callable[[], None]) -> None:
        self._loop.start()

    async def close(self) -> None:
        await self._loop.close()


class TensorRuntime:
    """A tensor model in this process: its rows are batched, its engine runs in threads of its own.

    Whether its rows may be batched is what ``info`` says. ``on_unhealthy`` is called with the reason when a run has
    not ended after ``run_limit`` seconds: nothing but a new process helps then. ``steps``: what runs around the engine
    in other processes; ``pipeline`` is then the engine alone. ``instant``: it takes no longer than a way into a thread
    would, so it answers where it is asked, and alone.
    """

    def __init__(
        self,
        info: ModelInfo,
        pipeline: TensorPipeline,
        limits: BatchLimits,
        *,
        steps: StepPipeline | None = None,
        buckets: Sequence[int] = (),
        observer: BatchObserver = NO_OBSERVER,
        instant: bool = False,
        run_limit: float = RUN_LIMIT,
        on_unhealthy: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.info = info
        self._pipeline = pipeline
        self._steps = steps
        self._limits = limits if info.batchable else None
        self.infer_now = self._infer_now if instant else None
        self._run_limit = run_limit
        self._on_unhealthy = on_unhealthy
        runs = pipeline.runs_at_once if info.batchable else 1
        self._threads = ThreadPoolExecutor(max_workers=runs, thread_name_prefix=f"engine {info.name}")
        self._turn = asyncio.Semaphore(runs)
        self._batcher: Batcher | None = None
        if info.batchable:
            padding = Padding(buckets, inputs=pipeline.inputs, outputs=pipeline.outputs)
            self._batcher = Batcher(
                self._execute, limits, padding=padding, model=info.name, observer=observer, runs_at_once=runs
            )
        self._in_flight = 0

    def load(self) -> Load:
        return Load(in_flight=self._in_flight, waiting=self._batcher.queued if self._batcher is not None else 0)

    def metrics(self) -> Iterable[MetricFamily]:
        return ()

    def generate(self, request: Generate, *, deadline: float | None) -> AsyncGenerator[Chunk]:
        raise InvalidRequest(f"model '{self.info.name}' infers on tensors, it does not generate", param="model")

    def _infer_now(self, request: Infer) -> Inferred:
        return Inferred(self._pipeline.run(request.inputs))

    async def infer(self, request: Infer, send: Send, *, deadline: float | None) -> None:
        self._in_flight += 1
        try:
            if not self._pipeline.streams:
                await send(Inferred(await self._whole(request, deadline)))
                return
            async with aclosing(self._parts(request, deadline)) as parts:
                async for part in parts:
                    await send(Inferred(part, last=False))
            await send(Inferred({}))  # which part is the last shows only when none comes behind it
        finally:
            self._in_flight -= 1

    def _whole(self, request: Infer, deadline: float | None) -> Awaitable[Tensors]:
        def run(inputs: Tensors) -> Awaitable[Tensors]:
            if self._batcher is not None:
                return self._batcher.submit(inputs, priority=request.priority, deadline=deadline, trace=request.trace)
            return self._in_thread(self._pipeline.run, inputs)

        if self._steps is not None:
            return self._steps.infer(request.inputs, run, self._limits, request.trace)
        return run(request.inputs)

    def _parts(self, request: Infer, deadline: float | None) -> AsyncGenerator[Tensors]:
        def stream(inputs: Tensors) -> AsyncGenerator[Tensors]:
            if self._batcher is not None:
                return self._batcher.stream(inputs, priority=request.priority, deadline=deadline, trace=request.trace)
            return self._execute(inputs)

        if self._steps is not None:
            return self._steps.stream(request.inputs, stream, self._limits, request.trace)
        return stream(request.inputs)

    async def _execute(self, inputs: Tensors) -> AsyncGenerator[Tensors]:
        """One run in the engine's thread, which makes a part of a stream only when it is asked for."""
        if not self._pipeline.streams:
            yield await self._in_thread(self._pipeline.run, inputs)
            return
        parts = self._pipeline.stream(inputs)
        try:
            while (part := await self._in_thread(next, parts, None)) is not None:
                yield part
        finally:
            # In the same thread, so behind a step that still runs.
            self._threads.submit(parts.close)

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        async with self._turn:  # so that the time of the watch is the engine's alone
            work = self._threads.submit(function, *arguments)
            watch = loop.call_later(self._run_limit, self._look_at, work)
            try:
                return await asyncio.wrap_future(work)
            finally:
                if work.done():  # else its client has left, and it still runs
                    watch.cancel()

    def _look_at(self, work: Future[Any]) -> None:
        if work.done():
            return
        reason = f"a run of model '{self.info.name}' did not end within {self._run_limit:g} seconds"
        logger.error("%s", reason, extra={"action": "engine_stuck", "model": self.info.name})
        self._on_unhealthy(reason)

    def start(self, changed: Callable[[], None]) -> None:
        return None

    async def close(self) -> None:
        if self._steps is not None:
            await self._steps.close()
        if self._batcher is not None:
            await self._batcher.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._pipeline.close()
