"""A data plane without a fleet and a client without a socket: whole surfaces run in memory, and in tests."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing, nullcontext
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from shoal.api.plane import ServedModel
from shoal.coordinator.admission import Place
from shoal.errors import ContextLengthExceeded, InvalidRequest, ModelNotFound, ModelUnavailable
from shoal.messages import Chunk, Generate, Infer, Inferred
from shoal.model_registry import ModelSpec
from shoal.types import (
    FinishReason,
    ModelKind,
    ModelName,
    RequestId,
    Tensors,
    TensorSpec,
    TokenLogprob,
    Usage,
    Version,
)

WIDTH = 384  # of an embedding
PROMPT_TOKENS = 7  # every prompt counts as much
CONTEXT = 50_000  # characters of a prompt
CACHED_TOKENS = 4
JSON_ANSWER = '{"name": "shoal", "fish": 3}'  # whatever schema is asked for
WORDS = ("a", "small", "fish", "swims", "where", "many", "others", "swim", "and", "all", "turn", "as", "one")

Script = Callable[[Generate], AsyncGenerator[Chunk, None]]

MODELS = (
    ServedModel("smollm2", ModelKind.GENERATE, ready=True, created=1_700_000_000, aliases=("default",)),
    ServedModel("minilm", ModelKind.TENSOR, ready=True, created=1_700_000_001),
)
#: Takes any ``input`` and gives it back as ``output``.
ECHO = ServedModel("echo", ModelKind.TENSOR, ready=True, created=1_700_000_002)
INPUTS = {"minilm": (TensorSpec("text", "BYTES", (-1, 1)),)}
OUTPUTS = {"minilm": (TensorSpec("embedding", "FP32", (-1, WIDTH)), TensorSpec("tokens", "INT64", (-1,)))}


async def speak(request: Generate) -> AsyncGenerator[Chunk, None]:
    """Words that depend on the seed and the position alone; obeys max_tokens, stop, logprobs and JSON."""
    sampling = request.sampling
    if len(str(request.prompt)) > CONTEXT:
        raise ContextLengthExceeded("the prompt is too long")
    wanted = sampling.max_tokens or 24
    tokens = list(_json_tokens() if request.grammar else _words(sampling.seed or 0, sampling.temperature))[:wanted]
    text = "".join(tokens)
    cuts = [at for stop in sampling.stop if (at := text.find(stop)) >= 0]
    end = min(cuts, default=len(text))
    stopped = bool(cuts) or bool(request.grammar)
    usage = Usage(PROMPT_TOKENS, len(tokens), CACHED_TOKENS)
    at = 0
    for number, token in enumerate(tokens):
        piece = text[at : min(at + len(token), end)]
        at += len(token)
        logprobs = () if sampling.logprobs is None else (_logprob(number, token, sampling.logprobs),)
        yield Chunk(piece, (number,), logprobs)
    yield Chunk("", (), (), FinishReason.STOP if stopped else FinishReason.LENGTH, usage)


class FakePlane:
    """Answers every request from a script and remembers what it was asked and what was cut short."""

    def __init__(self, script: Script = speak, *, models: Sequence[ServedModel] = MODELS) -> None:
        self.script = script
        self.served = models
        self.generated: list[Generate] = []
        self.inferred: list[Infer] = []
        self.timeouts: list[float | None] = []
        self.running: set[RequestId] = set()
        self.cut: list[RequestId] = []  # closed or cancelled before they had finished
        self.hold = asyncio.Event()  # inference waits for it
        self.hold.set()

    def models(self) -> Sequence[ServedModel]:
        return self.served

    def find(self, name: str, version: str | None = None, *, key: str = "") -> ModelSpec:
        for model in self.served:
            if name in (model.name, *model.aliases) and (model.live if version is None else version == model.version):
                return ModelSpec(
                    name=ModelName(model.name),
                    kind=model.kind,
                    version=Version(model.version),
                    inputs=model.inputs or INPUTS.get(model.name, ()),
                    outputs=model.outputs or OUTPUTS.get(model.name, ()),
                    batchable=model.batchable,
                )
        raise ModelNotFound(f"there is no model {name!r}", param="model")

    def ready(self) -> bool:
        return any(model.ready for model in self.served)

    def together(self, requests: Sequence[Generate]) -> AbstractContextManager[Sequence[Place | None]]:
        return nullcontext([None] * len(requests))

    async def generate(
        self, request: Generate, *, timeout: float | None, place: Place | None = None
    ) -> AsyncGenerator[Chunk, None]:
        self._check(request.model, ModelKind.GENERATE)
        self.generated.append(request)
        self.timeouts.append(timeout)
        self.running.add(request.request_id)
        try:
            async with aclosing(self.script(request)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except (GeneratorExit, asyncio.CancelledError):
            self.cut.append(request.request_id)
            raise
        finally:
            self.running.discard(request.request_id)

    async def infer(self, request: Infer, *, timeout: float | None) -> Inferred:
        self._check(request.model, ModelKind.TENSOR)
        self.inferred.append(request)
        self.timeouts.append(timeout)
        try:
            await self.hold.wait()
        except asyncio.CancelledError:
            self.cut.append(request.request_id)
            raise
        return Inferred(_run(request))

    def _check(self, name: str, kind: ModelKind) -> None:
        found = self.find(name).name
        model = next(model for model in self.served if model.name == found)
        if not model.ready:
            raise ModelUnavailable(f"{name} is not ready", retry_after=1.5)
        if model.kind is not kind:
            raise InvalidRequest(f"{name} is a model of kind {model.kind}", param="model")


@dataclass(slots=True)
class Answer:
    """What a client got."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    def events(self) -> list[Any]:
        """The data of each server-sent event, decoded; the closing mark stays a string."""
        data = [line.removeprefix(b"data: ") for line in self.body.split(b"\n\n") if line]
        return [item.decode() if item == b"[DONE]" else msgspec.json.decode(item) for item in data]


@dataclass(slots=True)
class Call:
    """One request in progress. The body arrives in ``parts``; without ``complete`` its end never does."""

    scope: dict[str, Any]
    parts: list[bytes]
    complete: bool = True
    reads: bool = True  # False: the client takes the status, and then nothing more
    sent: list[dict[str, Any]] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    progress: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def receive(self) -> Mapping[str, Any]:
        if self.parts:
            body = self.parts.pop(0)
            return {"type": "http.request", "body": body, "more_body": bool(self.parts) or not self.complete}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if self.sent and not self.reads:
            await asyncio.Event().wait()
        if self.gone.is_set():
            return
        assert not self.ended, "a second answer"
        self.sent.append(message)
        async with self.progress:
            self.progress.notify_all()

    @property
    def ended(self) -> bool:
        return len(self.sent) > 1 and not self.sent[-1].get("more_body", False)

    async def until_body(self, size: int = 1) -> None:
        """Wait until that many bytes of the answer have come."""
        async with self.progress:
            await self.progress.wait_for(lambda: len(self.answer.body) >= size)

    @property
    def answer(self) -> Answer:
        """What has come so far."""
        if not self.sent:
            return Answer(0, {}, b"")
        headers = {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}
        return Answer(self.sent[0]["status"], headers, b"".join(item["body"] for item in self.sent[1:]))


class AsgiClient:
    """Calls an ASGI application in memory, as a server would."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self.app = app

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        client: str = "127.0.0.1",
    ) -> Answer:
        call = self.call(method, path, [msgspec.json.encode(json) if json is not None else body], headers=headers)
        call.scope["client"] = (client, 50_000)
        await self.run(call)
        assert call.ended, "no whole answer"
        return call.answer

    def call(self, method: str, path: str, parts: Iterable[bytes], *, headers: Mapping[str, str] | None = None) -> Call:
        pieces = list(parts)
        given = {"content-length": str(sum(map(len, pieces))), **(headers or {})}
        pairs = [(name.lower().encode(), value.encode()) for name, value in given.items()]
        return Call({"type": "http", "method": method, "path": path, "headers": pairs}, pieces)

    async def run(self, call: Call) -> None:
        await self.app(call.scope, call.receive, call.send)


def _run(request: Infer) -> Tensors:
    wanted = "input" if request.model == ECHO.name else "text"
    if wanted not in request.inputs:
        raise InvalidRequest(f"input '{wanted}' is missing", param=wanted)
    if request.model == ECHO.name:
        return {"output": request.inputs[wanted]}
    texts = [bytes(text) for text in request.inputs["text"].flat]
    counts = np.array([len(text.split()) for text in texts], dtype=np.int64)
    return {"embedding": np.stack([_vector(text) for text in texts]), "tokens": counts}


def _words(seed: int, temperature: float) -> Iterable[str]:
    for position in range(24):
        draw = hashlib.sha256(f"{seed if temperature else 0}:{position}".encode()).digest()[0]
        yield " " + WORDS[draw % len(WORDS)]


def _json_tokens() -> Iterable[str]:
    return (JSON_ANSWER[at : at + 4] for at in range(0, len(JSON_ANSWER), 4))


def _logprob(number: int, token: str, alternatives: int) -> TokenLogprob:
    top = [(number + other, token.encode() + b"!" * other, -0.25 - other) for other in range(alternatives)]
    return TokenLogprob(number, token.encode(), -0.25, tuple(top))


def _vector(text: bytes) -> np.ndarray[Any, np.dtype[np.float32]]:
    seed = int.from_bytes(hashlib.sha256(text).digest()[:8], "little")
    vector = np.random.default_rng(seed).standard_normal(WIDTH).astype(np.float32)
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)
