"""Clients that speak the native protocol to a coordinator: :class:`AsyncClient`, and :class:`Client` without async.

They use the same port as HTTP. A native call costs less than an HTTP one and carries tensors without a copy.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncGenerator, Coroutine, Generator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import msgspec
import numpy as np

from shoal.errors import InvalidRequest, ShoalError
from shoal.messages import Chunk, Generate, Infer, Inferred, ListModels, ModelInfo, ModelList
from shoal.rpc import Connection, Hello, TcpNetwork, connect
from shoal.types import (
    Array,
    ChatMessage,
    ChatPrompt,
    FinishReason,
    Grammar,
    ModelName,
    Prompt,
    RequestId,
    Sampling,
    Tensors,
    TextPrompt,
    TokenPrompt,
    Usage,
)

DEFAULT_ADDRESS = "127.0.0.1:9000"
DEFAULT_TIMEOUT = 300.0  # seconds for a whole request

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole generated answer."""

    text: str
    finish_reason: FinishReason | None
    usage: Usage | None


class AsyncClient:
    """One connection to a coordinator; any number of requests at a time share it.

    Use it as a context manager. Every method raises a :class:`~shoal.errors.ShoalError` that says what was wrong.
    """

    def __init__(self, address: str = DEFAULT_ADDRESS, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self._address = address
        self._timeout = timeout  # seconds
        self._connection: Connection | None = None

    async def __aenter__(self) -> Self:
        hello = Hello(role="client", node_id=uuid.uuid4().hex)
        self._connection = await connect(TcpNetwork(), self._address, hello=hello, timeout=min(10.0, self._timeout))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._connection is not None:
            await self._connection.close("the client has finished")

    async def models(self) -> tuple[ModelInfo, ...]:
        answer = await self._open.call(ListModels(), timeout=self._timeout)
        assert isinstance(answer, ModelList)
        return answer.models

    async def generate(
        self, prompt: Prompt | str | Sequence[Mapping[str, str]], *, model: str = "default", **sampling: Any
    ) -> Completion:
        """Generate a whole answer. See :meth:`stream` for the arguments."""
        text: list[str] = []
        last: Chunk | None = None
        async with aclosing(self.stream(prompt, model=model, **sampling)) as chunks:
            async for last in chunks:
                text.append(last.text)
        return Completion("".join(text), last.finish_reason if last else None, last.usage if last else None)

    async def stream(
        self,
        prompt: Prompt | str | Sequence[Mapping[str, str]],
        *,
        model: str = "default",
        grammar: Grammar | None = None,
        **sampling: Any,
    ) -> AsyncGenerator[Chunk, None]:
        """Generate and yield the answer as it comes. Closing the generator stops the computing.

        ``prompt``: a text to continue, or chat messages with ``role`` and ``content``. ``sampling``: the fields of
        :class:`~shoal.types.Sampling`. Without a ``seed`` every answer is another one.
        """
        try:
            choice = msgspec.convert(sampling, Sampling)
            unknown = sampling.keys() - set(Sampling.__struct_fields__)
        except msgspec.ValidationError as error:
            raise InvalidRequest(str(error)) from error
        if unknown:
            raise InvalidRequest(f"unknown sampling parameter {min(unknown)}", param=min(unknown))
        request = Generate(_request_id(), ModelName(model), as_prompt(prompt), choice, grammar)
        async with self._open.stream(request, timeout=self._timeout) as answers:
            async for chunk in answers:
                assert isinstance(chunk, Chunk)
                yield chunk

    async def infer(self, model: str, inputs: Tensors) -> Tensors:
        """Run a tensor model: named arrays in, named arrays out (read-only views)."""
        async with aclosing(self._inferred(model, inputs)) as parts:
            async for part in parts:
                if not part.last:
                    raise InvalidRequest(f"model '{model}' answers in parts: use infer_stream", param="model")
                return part.outputs
        raise ShoalError("the server ended the answer before its end")

    async def infer_stream(self, model: str, inputs: Tensors) -> AsyncGenerator[Tensors, None]:
        """The same for a model that answers in parts, as they come. Closing the generator stops the computing."""
        async with aclosing(self._inferred(model, inputs)) as parts:
            async for part in parts:
                if part.outputs:
                    yield part.outputs

    async def _inferred(self, model: str, inputs: Tensors) -> AsyncGenerator[Inferred, None]:
        request = Infer(_request_id(), ModelName(model), inputs)
        async with self._open.stream(request, timeout=self._timeout) as answers:
            async for answer in answers:
                assert isinstance(answer, Inferred)
                yield answer

    async def embed(self, texts: Sequence[str], *, model: str = "minilm") -> Array:
        """Embed texts; returns float32 of shape (texts, width), each row of length one."""
        rows = np.array([[text.encode()] for text in texts], dtype=np.object_)
        return (await self.infer(model, {"text": rows}))["embedding"]

    @property
    def _open(self) -> Connection:
        if self._connection is None:
            raise ShoalError("the client is not connected: use it as `async with AsyncClient() as client`")
        return self._connection


class Client:
    """:class:`AsyncClient` for code that is not asynchronous: a loop in a thread of its own."""

    def __init__(self, address: str = DEFAULT_ADDRESS, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self._client = AsyncClient(address, timeout=timeout)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="shoal client", daemon=True)

    def __enter__(self) -> Self:
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
        return self._run(self._client.models())

    def generate(
        self, prompt: Prompt | str | Sequence[Mapping[str, str]], *, model: str = "default", **sampling: Any
    ) -> Completion:
        return self._run(self._client.generate(prompt, model=model, **sampling))

    def stream(
        self, prompt: Prompt | str | Sequence[Mapping[str, str]], *, model: str = "default", **sampling: Any
    ) -> Generator[Chunk, None, None]:
        return self._iterate(self._client.stream(prompt, model=model, **sampling))

    def infer(self, model: str, inputs: Tensors) -> Tensors:
        return self._run(self._client.infer(model, inputs))

    def infer_stream(self, model: str, inputs: Tensors) -> Generator[Tensors, None, None]:
        return self._iterate(self._client.infer_stream(model, inputs))

    def embed(self, texts: Sequence[str], *, model: str = "minilm") -> Array:
        return self._run(self._client.embed(texts, model=model))

    def _iterate(self, parts: AsyncGenerator[T, None]) -> Generator[T, None, None]:
        try:
            while (part := self._run(anext(parts, None))) is not None:
                yield part
        finally:
            self._run(parts.aclose())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def as_prompt(prompt: Prompt | str | Sequence[Mapping[str, str]]) -> Prompt:
    if isinstance(prompt, str):
        return TextPrompt(prompt)
    if isinstance(prompt, ChatPrompt | TextPrompt | TokenPrompt):
        return prompt
    return ChatPrompt(tuple(ChatMessage(message["role"], message["content"]) for message in prompt))


def _request_id() -> RequestId:
    return RequestId(uuid.uuid4().hex)
