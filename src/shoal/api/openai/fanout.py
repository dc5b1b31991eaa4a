"""Several generations read as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from shoal.aio import Tasks
from shoal.errors import EngineFailed
from shoal.messages import Chunk

Stream = AsyncGenerator[Chunk, None]


async def merge(streams: Sequence[Stream]) -> AsyncGenerator[tuple[int, Chunk], None]:
    """Yield (index of the stream, chunk) as they come, until every stream has finished.

    The first stream that fails ends all; closing this closes all. Raises :class:`EngineFailed` for a stream that
    ends without having finished.
    """
    if len(streams) == 1:  # most requests: neither a task nor a queue
        async with aclosing(_complete(streams[0])) as chunks:
            async for chunk in chunks:
                yield 0, chunk
        return
    # One place only: the streams then take turns, and a fast one cannot keep the others' failures waiting.
    queue: asyncio.Queue[tuple[int, Chunk | Exception | None]] = asyncio.Queue(maxsize=1)
    tasks = Tasks()
    try:
        for index, stream in enumerate(streams):
            tasks.start(_pump(index, stream, queue), name=f"choice {index}")
        running = len(streams)
        while running:
            index, item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                running -= 1
            else:
                yield index, item
    finally:
        await tasks.close()


async def _pump(index: int, stream: Stream, queue: asyncio.Queue[tuple[int, Chunk | Exception | None]]) -> None:
    try:
        async with aclosing(_complete(stream)) as chunks:
            async for chunk in chunks:
                await queue.put((index, chunk))
    except Exception as error:  # raised again by the reader of the queue
        await queue.put((index, error))
    else:
        await queue.put((index, None))


async def _complete(stream: Stream) -> AsyncGenerator[Chunk, None]:
    finished = False
    try:
        async with aclosing(stream):
            async for chunk in stream:
                finished = finished or chunk.finish_reason is not None
                yield chunk
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # Nobody cancelled this request: something it waited for was. Passed on, it would look as if one had.
        raise EngineFailed("the generation was cancelled") from None
    if not finished:
        raise EngineFailed("the answer ended before it was finished")
