"""The client: calls a coordinator, and another one when it goes away; streams go on where they were."""

from __future__ import annotations

import asyncio
import random
import secrets
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Self

import msgspec
import numpy as np

from shoal.clock import now
from shoal.coordinator.parts_again import PartsAgain
from shoal.errors import ConfigError, Draining, InvalidRequest, ShoalError, WorkerLost, invalid, located
from shoal.messages import Chunk, Generate, Infer, Inferred, ListModels, ModelInfo, ModelList
from shoal.rpc import Connection, Hello, Network, TcpNetwork, connect
from shoal.rpc.dialer import retry_delay
from shoal.rpc.network import split_address
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
    TokenId,
    TokenPrompt,
    Usage,
)

DEFAULT_ADDRESS = "127.0.0.1:9000"
DEFAULT_TIMEOUT = 300.0  # seconds for a whole request
CONNECT_TIMEOUT = 10.0  # seconds
PATIENCE = 30.0  # seconds to find a coordinator again
SILENCE = 8.0  # seconds without a word, pings unanswered: it is frozen or cut off, and a call to it would only wait

NOT_OPEN = "the client is not connected: use it as `{} as client`"


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole generated answer."""

    text: str
    finish_reason: FinishReason | None
    usage: Usage | None


class AsyncClient:
    """One connection to a coordinator; any number of requests at a time share it.

    Use it as a context manager. Every method raises a :class:`~shoal.errors.ShoalError` that says what was wrong.
    ``address``: HOST:PORT, or several with commas between them. When the coordinator goes away the client calls again,
    the same one first unless it was silent or leaves, and its streams go on where they were.
    """

    def __init__(
        self, address: str = DEFAULT_ADDRESS, *, timeout: float = DEFAULT_TIMEOUT, network: Network | None = None
    ) -> None:
        self._addresses = [_checked(part.strip()) for part in address.split(",")]
        self._timeout = timeout  # seconds
        self._network = network or TcpNetwork()
        self._hello = Hello(role="client", node_id=uuid.uuid4().hex)
        self._connection: Connection | None = None
        self._leaving: list[Connection] = []  # to coordinators that finish what they have and take nothing new
        self._calling = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self._call(patience=0.0)
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in (self._connection, *self._leaving):
            if connection is not None:
                await connection.close("the client has finished")

    async def models(self) -> tuple[ModelInfo, ...]:
        """What is served, each with its state and, where it could not be loaded, the reason."""
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
            raise invalid(error, "the sampling") from error
        if unknown:
            raise InvalidRequest(f"unknown sampling parameter {min(unknown)}", param=min(unknown))
        if choice.seed is None:  # known here, so that another coordinator can go on with the same draws
            choice = msgspec.structs.replace(choice, seed=random.getrandbits(63))
        request = Generate(_request_id(), ModelName(model), as_prompt(prompt), choice, grammar)
        async with aclosing(self._generated(request)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _generated(self, request: Generate) -> AsyncGenerator[Chunk, None]:
        """The answer, over as many connections as it takes.

        The coordinator that has begun it goes on meanwhile and sends what was missed; another one takes it up behind
        the tokens.
        """
        deadline = now() + self._timeout
        tokens: list[TokenId] = []
        begun = _Begun()
        connection, refused = self._open, 0
        while True:
            begun.with_(connection.peer.node_id)
            rest = msgspec.structs.replace(request, output=tuple(tokens), resume=begun.name, seen=begun.seen)
            try:
                async with connection.stream(rest, timeout=deadline - now()) as answers:
                    async for chunk in answers:
                        assert isinstance(chunk, Chunk)
                        begun.seen += 1
                        tokens += chunk.tokens
                        yield chunk
                        if chunk.finish_reason is not None:
                            return
                raise ShoalError("the server ended the answer before its end")
            except WorkerLost:
                if not connection.is_closed:
                    raise  # the coordinator is there and says that it can do no more
            except Draining:
                refused += 1
                if refused >= len(self._addresses):
                    raise
                self._leave(connection)
            connection = await self._call(patience=min(PATIENCE, deadline - now()))

    async def infer(self, model: str, inputs: Tensors, *, key: str = "") -> Tensors:
        """Run a tensor model: named arrays in, named arrays out (read-only views). ``key`` chooses the shard of a model
        in shards where no input does."""
        async with aclosing(self._inferred(model, inputs, key)) as parts:
            async for part in parts:
                if not part.last:
                    raise InvalidRequest(f"model '{model}' answers in parts: use infer_stream", param="model")
                return part.outputs
        raise ShoalError("the server ended the answer before its end")

    async def infer_stream(self, model: str, inputs: Tensors, *, key: str = "") -> AsyncGenerator[Tensors, None]:
        """The same for a model that answers in parts, as they come. Closing the generator stops the computing."""
        async with aclosing(self._inferred(model, inputs, key)) as parts:
            async for part in parts:
                if part.outputs:
                    yield part.outputs

    async def _inferred(self, model: str, inputs: Tensors, key: str) -> AsyncGenerator[Inferred, None]:
        given: Mapping[str, object] = inputs
        for name, value in given.items():
            if not isinstance(value, np.ndarray):
                kind = type(value).__name__
                raise InvalidRequest(f"{name}: expected a numpy array, got {kind}", param=name)
        request = Infer(_request_id(), ModelName(model), inputs, key=key)
        deadline = now() + self._timeout
        parts, refused = PartsAgain(), 0
        while True:
            connection = self._open
            if connection.is_closed or connection in self._leaving:
                connection = await self._call(patience=min(PATIENCE, deadline - now()))
            parts.begin()
            try:
                async with connection.stream(request, timeout=deadline - now()) as answers:
                    async for answer in answers:
                        assert isinstance(answer, Inferred)
                        if not parts.is_known(answer):
                            parts.add(answer)
                            yield answer
                return
            except WorkerLost:
                if parts.differs or not connection.is_closed:
                    raise
            except Draining:
                refused += 1
                if refused >= len(self._addresses):
                    raise
                self._leave(connection)

    async def embed(self, texts: Sequence[str], *, model: str = "minilm") -> Array:
        """Embed texts; returns float32 of shape (texts, width), each row of length one."""
        rows = np.array([[text.encode()] for text in texts], dtype=np.object_)
        return (await self.infer(model, {"text": rows}))["embedding"]

    def _leave(self, connection: Connection) -> None:
        """Its coordinator takes nothing new; what it has of ours may end there."""
        if connection is self._connection and connection not in self._leaving:
            self._leaving = [*(each for each in self._leaving if not each.is_closed), connection]
            self._addresses.append(self._addresses.pop(0))

    async def _call(self, *, patience: float) -> Connection:
        """A connection that is open: the one there is, or a new one within so many seconds."""
        async with self._calling:
            known = self._connection
            if known is not None and not known.is_closed and known not in self._leaving:
                return known
            if known is not None and known not in self._leaving and now() - known.heard > SILENCE:
                self._addresses.append(self._addresses.pop(0))
            began, failures = now(), 0
            while True:
                address = self._addresses[0]
                try:
                    self._connection = await connect(
                        self._network, address, hello=self._hello, timeout=min(CONNECT_TIMEOUT, self._timeout)
                    )
                    return self._connection
                except ShoalError as error:
                    failures += 1
                    self._addresses.append(self._addresses.pop(0))
                    if failures >= len(self._addresses) and now() - began >= patience:
                        if isinstance(error, WorkerLost):
                            why = error.message.removeprefix(f"cannot connect to {address}: ")
                            raise WorkerLost(f"cannot reach a coordinator at {address}: {why}") from error
                        raise
                await asyncio.sleep(retry_delay(failures, random.random()))

    @property
    def _open(self) -> Connection:
        if self._connection is None:
            raise ShoalError(NOT_OPEN.format("async with AsyncClient()"))
        return self._connection


class _Begun:
    """Which coordinator has a stream, under which name, and what it has sent of it."""

    def __init__(self) -> None:
        self.name = ""
        self.seen = 0  # chunks
        self._coordinator = ""

    def with_(self, coordinator: str) -> None:
        if coordinator != self._coordinator:
            self._coordinator, self.name, self.seen = coordinator, secrets.token_hex(16), 0


def as_prompt(prompt: Prompt | str | Sequence[Mapping[str, str]]) -> Prompt:
    if isinstance(prompt, str):
        return TextPrompt(prompt)
    if isinstance(prompt, ChatPrompt | TextPrompt | TokenPrompt):
        return prompt
    try:
        return ChatPrompt(msgspec.convert(prompt, tuple[ChatMessage, ...]))
    except msgspec.ValidationError as error:
        field, reason = located(error)
        raise InvalidRequest(f"messages{field}: {reason}", param=f"messages{field}") from error


def _checked(address: str) -> str:
    try:
        host, _ = split_address(address)
        if "/" in host:
            raise ConfigError("this is a URL")
    except ConfigError:
        raise ConfigError(f"a client's address is HOST:PORT, such as {DEFAULT_ADDRESS}, not {address!r}") from None
    return address


def _request_id() -> RequestId:
    return RequestId(uuid.uuid4().hex)
