"""What arrives on native connections: requests of clients, registrations and statuses of workers."""

from __future__ import annotations

from contextlib import aclosing

from shoal.clock import now
from shoal.coordinator.admission import Shares
from shoal.coordinator.dataplane import DataPlane
from shoal.coordinator.fleet import Fleet
from shoal.coordinator.keeper import Keeper
from shoal.coordinator.resumable import ResumableStreams
from shoal.errors import Forbidden, ProtocolError
from shoal.messages import (
    Deregister,
    Generate,
    Infer,
    ListModels,
    LoadReport,
    MetricsReport,
    ModelInfo,
    ModelList,
    Register,
    Request,
    Status,
)
from shoal.rpc import Call
from shoal.types import ModelName, Version


class NativeSurface:
    """``share``: requests of one connection at a time."""

    def __init__(self, plane: DataPlane, fleet: Fleet, keeper: Keeper, *, share: int) -> None:
        self._plane = plane
        self._resumable = ResumableStreams(plane, keeper)
        self._fleet = fleet
        self._shares = Shares(share)

    async def handle(self, message: Request, call: Call) -> None:
        match message:
            case Generate() | Infer() if message.tenant:
                raise Forbidden("a native client names no tenant; a trusted proxy does, over HTTP", param="tenant")
            case Generate():
                with self._shares.take(call.connection):
                    await self._generate(message, call)
            case Infer():
                with self._shares.take(call.connection):
                    async with aclosing(self._plane.infer_stream(message, timeout=_left(call))) as parts:
                        async for part in parts:
                            await call.send(part)
            case ListModels():
                await call.send(ModelList(tuple(self._models())))
            case LoadReport():
                self._fleet.loaded(message, call.connection)
            case Status():
                self._fleet.status(message, call.connection)
            case Register():
                await call.send(self._fleet.register(message, call.connection))
            case MetricsReport():
                self._fleet.measured(message, call.connection)
            case Deregister():
                self._fleet.deregister(message, call.connection)
            case _:
                raise ProtocolError(f"a coordinator does not take {type(message).__name__}")

    async def _generate(self, message: Generate, call: Call) -> None:
        if message.resume:
            await self._resumable.answer(message, call, timeout=_left(call))
            return
        async with aclosing(self._plane.generate(message, timeout=_left(call))) as chunks:
            async for chunk in chunks:
                await call.send(chunk)

    def _models(self) -> list[ModelInfo]:
        return [
            ModelInfo(
                name=ModelName(model.name),
                kind=model.kind,
                state=model.state,
                reason=model.reason,
                version=Version(model.version),
                context_length=model.context_length,
                inputs=model.inputs,
                outputs=model.outputs,
                batchable=model.batchable is not False,
                aliases=model.aliases,
                live=model.live,
            )
            for model in self._plane.models()
        ]


def _left(call: Call) -> float | None:
    """Seconds until the caller gives up."""
    return None if call.deadline is None else max(0.001, call.deadline - now())
