"""Where an answer waits for its client: what has come since the last look is one chunk, never a queue of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from shoal.errors import ShoalError
from shoal.messages import Chunk


class Outbox:
    """A client that reads slowly gets fewer and longer chunks. So putting never waits, and what waits is bounded
    by the answer's own length."""

    def __init__(self) -> None:
        self._chunks: list[Chunk] = []
        self._error: ShoalError | None = None
        self._filled = asyncio.Event()

    def put(self, chunk: Chunk) -> None:
        self._chunks.append(chunk)
        self._filled.set()

    def fail(self, error: ShoalError) -> None:
        """End the answer with an error; what was put before still comes first."""
        self._error = error
        self._filled.set()

    async def take(self) -> Chunk:
        """All that is there, once there is something. Raises what :meth:`fail` was given."""
        await self._filled.wait()
        if not self._chunks:
            assert self._error is not None
            raise self._error
        chunks, self._chunks = self._chunks, []
        if self._error is None:
            self._filled.clear()
        return chunks[0] if len(chunks) == 1 else _join(chunks)


def _join(chunks: Sequence[Chunk]) -> Chunk:
    return Chunk(
        text="".join(chunk.text for chunk in chunks),
        tokens=tuple(token for chunk in chunks for token in chunk.tokens),
        logprobs=tuple(logprob for chunk in chunks for logprob in chunk.logprobs),
        finish_reason=chunks[-1].finish_reason,
        usage=chunks[-1].usage,
    )
