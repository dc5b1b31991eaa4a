"""How many requests each model has here, so that a model goes only when nobody needs it any more."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from shoal.types import ModelId


class InFlight:
    def __init__(self) -> None:
        self.running: dict[ModelId, int] = {}
        self.begun: dict[ModelId, int] = {}  # since the start; shows how an alias spreads its requests
        self._ended: dict[ModelId, asyncio.Event] = {}

    def began(self, model: ModelId) -> None:
        self.running[model] = self.running.get(model, 0) + 1
        self.begun[model] = self.begun.get(model, 0) + 1

    def finished(self, model: ModelId) -> None:
        self.running[model] -= 1
        if not self.running[model]:
            del self.running[model]
            if ended := self._ended.get(model):
                ended.set()

    async def ended(self, model: ModelId, timeout: float) -> None:
        """Wait until none runs, at most ``timeout`` seconds. The caller sees to it that none begins."""
        if model in self.running:
            self._ended[model] = asyncio.Event()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended[model].wait(), timeout)
            del self._ended[model]

    def forget(self, model: ModelId) -> None:
        """It is no longer there: its count ends."""
        self.begun.pop(model, None)
