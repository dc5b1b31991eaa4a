"""The models a worker has: they come and go while it serves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress

import msgspec

from shoal.aio import Tasks
from shoal.config import ModelConfig
from shoal.errors import (
    ConfigError,
    InvalidRequest,
    ModelLoadFailed,
    ModelNotFound,
    ModelUnavailable,
    Overloaded,
)
from shoal.messages import MAX_MODELS, Deploy, Load, MetricFamily, ModelInfo, Undeploy
from shoal.model_registry import ModelSpec, make_spec
from shoal.types import ModelId, ModelPart, ModelState
from shoal.worker.runtime import ModelRuntime

logger = logging.getLogger(__name__)

Build = Callable[[ModelSpec, int | None], ModelRuntime]


class _Held:
    """A model with the requests that use it."""

    def __init__(self, runtime: ModelRuntime) -> None:
        self.runtime = runtime
        self.in_flight = 0
        self.leaving = False
        self.changed = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()

    async def settled(self) -> ModelInfo:
        """Wait until it is loaded, or is not going to be."""
        while self.runtime.info.state is ModelState.LOADING and not self.leaving:
            self.changed.clear()
            await self.changed.wait()
        return self.runtime.info

    def __enter__(self) -> ModelRuntime:
        """A request uses it."""
        self.in_flight += 1
        self.idle.clear()
        return self.runtime

    def __exit__(self, *_: object) -> None:
        self.in_flight -= 1
        if not self.in_flight:
            self.idle.set()


class Models:
    """``build`` makes a runtime of a model and its shard; it raises :class:`ShoalError` for one that it must not or
    cannot make. ``changed`` is called whenever something of a model has."""

    def __init__(
        self, runtimes: Mapping[ModelPart, ModelRuntime], *, build: Build | None, changed: Callable[[], None]
    ) -> None:
        self._held = {part: _Held(runtime) for part, runtime in runtimes.items()}
        self._build = build
        self._changed = changed
        self._tasks = Tasks()

    def metrics(self) -> list[tuple[ModelPart, list[MetricFamily]]]:
        """What each model has measured."""
        return [(part, list(held.runtime.metrics())) for part, held in self._held.items()]

    def start(self) -> None:
        for held in self._held.values():
            self._start(held)

    async def close(self) -> None:
        await self._tasks.close()
        await asyncio.gather(*(held.runtime.close() for held in self._held.values()))

    # -- questions

    def infos(self) -> tuple[ModelInfo, ...]:
        """What coordinators are told; a model that leaves is gone for them."""
        return tuple(held.runtime.info for held in self._held.values() if not held.leaving)

    def loads(self) -> list[Load]:
        return [held.runtime.load() for held in self._held.values()]

    def runtime(self, part: ModelPart) -> ModelRuntime:
        """A model, for now. Raises as :meth:`used` does."""
        return self._find(part).runtime

    def used(self, part: ModelPart) -> AbstractContextManager[ModelRuntime]:
        """A model, for a request; it does not go before the block ends. Raises :class:`ModelNotFound` or, while it
        leaves, :class:`ModelUnavailable`."""
        return self._find(part)

    def _find(self, part: ModelPart) -> _Held:
        held = self._held.get(part)
        if held is None:
            raise ModelNotFound(f"this worker has no model '{part}'", param="model")
        if held.leaving:
            raise ModelUnavailable(f"model '{part}' is being unloaded")
        return held

    # -- changes

    async def deploy(self, order: Deploy) -> None:
        """Return once the model is ready. What fails, or is cancelled, leaves nothing. Raises :class:`ShoalError`."""
        spec = _spec(order)
        part = ModelPart(spec.id, order.shard)
        held = self._held.get(part)
        if held is not None and (held.leaving or held.runtime.info.state is not ModelState.FAILED):
            await _ready(part, held)
            return
        if held is not None:
            await asyncio.shield(self._leave(part, held))
        held = self._add(part, spec)
        try:
            await _ready(part, held)
        except BaseException:
            if not held.leaving:
                await asyncio.shield(self._leave(part, held))
            raise

    async def undeploy(self, order: Undeploy) -> None:
        """Let what runs on it end, at most ``order.timeout`` seconds, and close it. Harmless when it is not there."""
        model = ModelId(order.name, order.version)
        # In tasks of their own: a coordinator that goes away must not leave one half closed.
        tasks = [
            self._leave(part, held, order.timeout)
            for part, held in self._held.items()
            if part.model == model and not held.leaving
        ]
        await asyncio.shield(asyncio.gather(*tasks))

    def _add(self, part: ModelPart, spec: ModelSpec) -> _Held:
        if self._build is None:
            raise ModelLoadFailed("this worker takes no other models than its own")
        if len(self._held) >= MAX_MODELS:
            raise Overloaded(f"this worker has {MAX_MODELS} models already, which is its limit")
        held = self._held[part] = _Held(self._build(spec, part.shard))
        self._start(held)
        self._changed()
        return held

    def _start(self, held: _Held) -> None:
        def changed() -> None:
            held.changed.set()
            self._changed()

        held.runtime.start(changed)

    def _leave(self, part: ModelPart, held: _Held, timeout: float = 0.0) -> asyncio.Task[None]:
        """Nobody gets it from now on; the task closes it when what runs has ended, or the time is up."""
        held.leaving = True
        held.changed.set()
        self._changed()
        return self._tasks.start(self._close(part, held, timeout), name=f"unload {part}")

    async def _close(self, part: ModelPart, held: _Held, timeout: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(held.idle.wait(), timeout)
        if held.in_flight:
            extra = {"action": "unload_timeout", "model": part.model.name}
            logger.warning("%d requests still ran when model '%s' went", held.in_flight, part, extra=extra)
        await held.runtime.close()
        if self._held.get(part) is held:
            del self._held[part]
        self._changed()


async def _ready(part: ModelPart, held: _Held) -> None:
    info = await held.settled()
    if held.leaving:
        raise ModelUnavailable(f"model '{part}' is being unloaded")
    if info.state is not ModelState.READY:
        raise ModelLoadFailed(info.reason or f"model '{part}' could not be loaded")


def _spec(order: Deploy) -> ModelSpec:
    try:
        return make_spec(str(ModelId(order.name, order.version)), msgspec.convert(order.settings, ModelConfig))
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"settings: {error}", param="settings") from error
    except ConfigError as error:
        raise InvalidRequest(error.message, param=error.param) from error
