"""Ask a second worker for what a first one is slow with, and take whichever answer comes first.

For answers in one piece: a second worker that begins to generate costs as much as the first, and its tokens would be
thrown away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from shoal.clock import now
from shoal.load_balancer import Hedging
from shoal.messages import Inferred
from shoal.model_registry import ModelSpec
from shoal.types import ModelId

REMEMBERED: Final = 1024  # models

Ask = Coroutine[Any, Any, Inferred]


class NobodyElse(Exception):
    """There is no second worker to ask."""


class Hedges:
    """For every model that asks for it. ``hedged`` is told how often a second worker was asked, and which one won."""

    def __init__(self, hedged: Callable[[str, str], None]) -> None:
        self._hedged = hedged
        self._models: dict[ModelId, tuple[ModelSpec, Hedging]] = {}

    def of(self, spec: ModelSpec) -> Hedging | None:
        """None where a model's configuration does not ask for it."""
        settings = spec.settings.hedge
        if settings is None:
            return None
        known = self._models.get(spec.id)
        if known is None or known[0] is not spec:
            if len(self._models) >= REMEMBERED:
                del self._models[next(iter(self._models))]
            known = self._models[spec.id] = spec, Hedging(settings.quantile, settings.share)
        return known[1]

    async def first(self, hedging: Hedging, model: str, ask: Ask, ask_another: Callable[[], Ask]) -> Inferred:
        """The first answer that is one; when none is, the error of the worker that was asked first.

        ``ask_another`` asks another worker, or raises :class:`NobodyElse`. The one that loses is cancelled.
        """
        delay = hedging.begin()
        first = asyncio.ensure_future(_timed(hedging, ask))
        asked = {first}
        try:
            done, _ = await asyncio.wait(asked, timeout=delay)
            if not done and hedging.may_ask_again():
                asked.add(asyncio.ensure_future(_timed(hedging, ask_another())))
            answer = await _first_answer(asked, otherwise=first)
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        if len(asked) > 1 and not any(map(_is_nobody, asked)):
            self._hedged(model, "first" if answer is first else "second")
        return answer.result()


async def _timed(hedging: Hedging, ask: Ask) -> Inferred:
    """What this worker took for itself: what a request waits when two are asked would raise the wait for the next."""
    began = now()
    answer = await ask
    hedging.observe(now() - began)
    return answer


def _is_nobody(task: asyncio.Task[Inferred]) -> bool:
    return not task.cancelled() and isinstance(task.exception(), NobodyElse)


async def _first_answer(
    asked: set[asyncio.Task[Inferred]], *, otherwise: asyncio.Task[Inferred]
) -> asyncio.Task[Inferred]:
    """The first that ends well. When none does, ``otherwise``."""
    pending = asked
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if task.exception() is None:
                return task
    return otherwise
