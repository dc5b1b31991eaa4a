"""Native streams that go on without their connection: a client comes back with the name that it gave its request."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from functools import partial

import msgspec

from shoal.coordinator.dataplane import DataPlane
from shoal.coordinator.keeper import Keeper
from shoal.coordinator.kept_answer import KeptAnswer
from shoal.coordinator.response_codec import size_of
from shoal.errors import Overloaded, from_info
from shoal.messages import Chunk, Generate
from shoal.rpc import Call


class KeptStream(KeptAnswer[Chunk]):
    """``skipped``: chunks that the client had before this one began."""

    def __init__(self, request: Generate) -> None:
        super().__init__(_scope(request), size_of, tenant=request.tenant, name=request.resume)
        self.skipped = request.seen


class ResumableStreams:
    def __init__(self, plane: DataPlane, keeper: Keeper) -> None:
        self._plane = plane
        self._keeper = keeper

    async def answer(self, request: Generate, call: Call, *, timeout: float | None) -> None:
        """Send the chunks that the client has not seen, of the answer that it knows or of a new one."""
        kept = self._found(request) or self._begun(request, timeout)
        if kept is None:
            await self._send_alone(request, call, timeout)
            return
        try:
            async with aclosing(self._keeper.read(kept, request.seen - kept.skipped)) as pages:
                async for page in pages:
                    for chunk in page:
                        await call.send(chunk.data)
        except asyncio.CancelledError:
            if call.is_given_up or not call.connection.is_closed:  # it was not lost: the client wants no more
                self._keeper.give_up(kept)
            raise
        if kept.error is not None:
            raise from_info(kept.error.to_info())  # one of its own, for others may raise it too

    def _found(self, request: Generate) -> KeptStream | None:
        found = self._keeper.find(request.resume, _scope(request))
        if not isinstance(found, KeptStream):
            return None
        if not 0 <= request.seen - found.skipped <= found.parts.log.last:
            self._keeper.give_up(found)  # this is not what its client has seen of it
            return None
        self._keeper.metrics.taken_up("client")
        return found

    def _begun(self, request: Generate, timeout: float | None) -> KeptStream | None:
        """None: there is no room to keep one more. Raises :class:`~shoal.errors.Conflict` for another's name."""
        kept = KeptStream(request)
        try:
            self._keeper.begin(kept, partial(self._make, kept, request, timeout), name=f"kept {request.request_id}")
        except Overloaded:
            return None
        return kept

    async def _make(self, kept: KeptStream, request: Generate, timeout: float | None) -> bool:
        async with aclosing(self._plane.generate(_plain(request), timeout=timeout)) as chunks:
            async for chunk in chunks:
                self._keeper.add(kept, chunk)
        return True

    async def _send_alone(self, request: Generate, call: Call, timeout: float | None) -> None:
        async with aclosing(self._plane.generate(_plain(request), timeout=timeout)) as chunks:
            async for chunk in chunks:
                await call.send(chunk)


def _plain(request: Generate) -> Generate:
    """Neither workers nor the response cache have to know."""
    return msgspec.structs.replace(request, resume="", seen=0)


def _scope(request: Generate) -> str:
    return f"native {request.tenant}"
