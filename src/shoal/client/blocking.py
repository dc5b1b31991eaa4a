"""The client for code that is not asynchronous."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator, Mapping, Sequence
from typing import Any, Self, TypeVar

from shoal.client.asynchronous import DEFAULT_ADDRESS, DEFAULT_TIMEOUT, NOT_OPEN, AsyncClient, Completion
from shoal.errors import ShoalError
from shoal.messages import Chunk, ModelInfo
from shoal.types import Array, Prompt, Tensors

T = TypeVar("T")


class Client:
    """:class:`AsyncClient` for code that is not asynchronous: a loop in a thread of its own.

    Use it as a context manager.
    """

    def __init__(self, address: str = DEFAULT_ADDRESS, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self._client = AsyncClient(address, timeout=timeout)
        self._loop: asyncio.AbstractEventLoop | None = None  # while it is connected

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="shoal client", daemon=True)
        self._thread.start()
        try:
            self._run(self._client.__aenter__())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._client.__aexit__())
        self._stop()

    def models(self) -> tuple[ModelInfo, ...]:
        """What is served, each with its state and, where it could not be loaded, the reason."""
        return self._run(self._client.models())

    def generate(
        self, prompt: Prompt | str | Sequence[Mapping[str, str]], *, model: str = "default", **sampling: Any
    ) -> Completion:
        """Generate a whole answer. ``prompt``: a text to continue, or chat messages with ``role`` and ``content``.

        ``sampling``: the fields of :class:`~shoal.types.Sampling`, such as ``max_tokens`` and ``temperature``, and
        ``grammar``. Without a ``seed`` every answer is another one.
        """
        return self._run(self._client.generate(prompt, model=model, **sampling))

    def stream(
        self, prompt: Prompt | str | Sequence[Mapping[str, str]], *, model: str = "default", **sampling: Any
    ) -> Generator[Chunk, None, None]:
        """Generate and yield the answer as it comes; the arguments are those of :meth:`generate`."""
        return self._iterate(self._client.stream(prompt, model=model, **sampling))

    def infer(self, model: str, inputs: Tensors, *, key: str = "") -> Tensors:
        """Run a tensor model: named arrays in, named arrays out (read-only views). ``key`` chooses the shard of a model
        in shards where no input does."""
        return self._run(self._client.infer(model, inputs, key=key))

    def infer_stream(self, model: str, inputs: Tensors, *, key: str = "") -> Generator[Tensors, None, None]:
        """The same for a model that answers in parts, as they come."""
        return self._iterate(self._client.infer_stream(model, inputs, key=key))

    def embed(self, texts: Sequence[str], *, model: str = "minilm") -> Array:
        """Embed texts; returns float32 of shape (texts, width), each row of length one."""
        return self._run(self._client.embed(texts, model=model))

    def _iterate(self, parts: AsyncGenerator[T, None]) -> Generator[T, None, None]:
        try:
            while (part := self._run(anext(parts, None))) is not None:
                yield part
        finally:
            self._run(parts.aclose())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            work.close()
            raise ShoalError(NOT_OPEN.format("with Client()"))
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop(self) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = None
