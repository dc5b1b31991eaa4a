"""One model, loaded and answering: the same face for a model in this process and for one in a child process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from shoal.batcher import Batcher, BatchLimits
from shoal.errors import InvalidRequest
from shoal.messages import Chunk, Generate, Infer, Inferred, Load, ModelInfo
from shoal.types import Tensors
from shoal.worker.generation import GenerationLoop
from shoal.worker.pipeline import StepPipeline, TensorPipeline


class ModelRuntime(Protocol):
    """What a worker holds for each of its models."""

    @property
    def info(self) -> ModelInfo:
        """What the worker tells of the model: its state, and why if it failed."""

    def load(self) -> Load: ...

    def generate(self, request: Generate) -> AsyncGenerator[Chunk]:
        """Closing the generator aborts the generation within a step."""

    async def infer(self, request: Infer) -> Inferred: ...

    def start(self, changed: Callable[[], None]) -> None:
        """Begin to load; ``changed`` is called whenever ``info`` or the load has."""

    async def close(self) -> None: ...


class LanguageRuntime:
    """A language model in this process."""

    def __init__(self, info: ModelInfo, loop: GenerationLoop) -> None:
        self.info = info
        self._loop = loop

    def load(self) -> Load:
        return self._loop.load()

    def generate(self, request: Generate) -> AsyncGenerator[Chunk]:
        return self._loop.generate(request)

    async def infer(self, request: Infer) -> Inferred:
        raise InvalidRequest(f"model '{self.info.name}' generates text, it does not infer on tensors", param="model")

    def start(self, changed: Callable[[], None]) -> None:
        self._loop.start()

    async def close(self) -> None:
        await self._loop.close()


class TensorRuntime:
    """A tensor model in this process: its rows are batched, its engine runs in a thread of its own.

    ``steps``: what runs around it in other processes; ``pipeline`` is then the engine alone.
    """

    def __init__(
        self, info: ModelInfo, pipeline: TensorPipeline, limits: BatchLimits, steps: StepPipeline | None = None
    ) -> None:
        self.info = info
        self._pipeline = pipeline
        self._steps = steps
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"engine {info.name}")
        self._batcher = Batcher(self._execute, limits) if pipeline.batchable else None
        self._in_flight = 0

    async def _execute(self, inputs: Tensors) -> Tensors:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._pipeline.run, inputs)

    def load(self) -> Load:
        return Load(in_flight=self._in_flight)

    def generate(self, request: Generate) -> AsyncGenerator[Chunk]:
        raise InvalidRequest(f"model '{self.info.name}' infers on tensors, it does not generate", param="model")

    async def infer(self, request: Infer) -> Inferred:
        self._in_flight += 1
        try:
            run = self._execute if self._batcher is None else self._batcher.submit
            if self._steps is not None:
                return Inferred(outputs=await self._steps.infer(request.inputs, run))
            return Inferred(outputs=await run(request.inputs))
        finally:
            self._in_flight -= 1

    def start(self, changed: Callable[[], None]) -> None:
        return None

    async def close(self) -> None:
        if self._steps is not None:
            await self._steps.close()
        if self._batcher is not None:
            await self._batcher.close()
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._pipeline.close()
