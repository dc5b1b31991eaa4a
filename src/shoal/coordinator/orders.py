"""Orders to workers: have this model, let that one go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from shoal.cluster import Have
from shoal.coordinator.fleet import Fleet
from shoal.errors import ErrorInfo, ShoalError, from_info
from shoal.messages import Deploy, Undeploy
from shoal.model_registry import ModelSpec
from shoal.types import ModelId, WorkerId

logger = logging.getLogger(__name__)

LOAD_TIMEOUT: Final = 900.0  # seconds: a first load may fetch and convert weights
ANSWER_TIMEOUT: Final = 15.0  # seconds a worker has beside the time it was given


class Orders:
    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def deploy_all(self, spec: ModelSpec, orders: Sequence[Have]) -> None:
        """Return once every worker has answered. Raises :class:`ShoalError` if one cannot have it, with all reasons."""
        results = await asyncio.gather(*map(self.deploy, orders), return_exceptions=True)
        failed: list[tuple[WorkerId, ShoalError]] = []
        for order, result in zip(orders, results, strict=True):
            if isinstance(result, ShoalError):
                failed.append((order.worker_id, result))
            elif result is not None:
                raise result
        if failed:
            raise _joined(spec.id, failed)

    async def deploy(self, order: Have) -> None:
        """Return once it is ready there. Raises :class:`ShoalError`."""
        spec = order.spec
        message = Deploy(spec.name, spec.version, msgspec.to_builtins(spec.settings), order.shard)
        await self._fleet.order(order.worker_id, message, LOAD_TIMEOUT)

    async def undeploy_all(self, model: ModelId, workers: Iterable[WorkerId], *, timeout: float) -> None:
        """``timeout`` is in seconds, for what runs on it. One that does not answer is logged."""
        message = Undeploy(model.name, model.version, timeout)
        answers = [self._fleet.order(worker, message, timeout + ANSWER_TIMEOUT) for worker in workers]
        for result in await asyncio.gather(*answers, return_exceptions=True):
            if isinstance(result, ShoalError):  # the plan asks again should it still be there
                extra = {"action": "unload_failed", "model": model.name}
                logger.warning("model '%s' is not unloaded: %s", model, result.message, extra=extra)


def _joined(model: ModelId, failed: Sequence[tuple[WorkerId, ShoalError]]) -> ShoalError:
    """One error for all, of the first one's kind; who had the same reason is named together."""
    workers: dict[str, list[str]] = {}
    for worker, error in failed:
        workers.setdefault(error.message, []).append(worker)
    reasons = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in workers.items())
    first = failed[0][1]
    return from_info(ErrorInfo(first.code, f"'{model}' is not loaded: {reasons}", first.param, first.retry_after))
