from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import pytest

from shoal.engines.toy import ToyEngine, ToyTokenizer
from shoal.errors import InvalidRequest
from shoal.messages import Chunk, Generate
from shoal.types import FinishReason, Grammar, ModelName, Prompt, RequestId, Sampling, TextPrompt, TokenId, TokenPrompt
from shoal.worker.generation import GenerationLoop, Limits, constraint


def encode_prompt(prompt: Prompt) -> Sequence[TokenId]:
    match prompt:
        case TextPrompt(text):
            return ToyTokenizer().encode(text, special=True)
        case TokenPrompt(tokens):
            return tokens
        case _:
            raise InvalidRequest("toys do not chat", param="messages")


class Counts:
    """What an observer is told."""

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self.recomputed = self.parked = self.left = self.wasted_rows = 0

    def stepped(self, rows: int, tokens: int, seconds: float) -> None:
        return None

    def preempted(self, reasons: Mapping[str, int], recomputed: int, parked: int) -> None:
        self.reasons.update(reasons)
        self.recomputed += recomputed
        self.parked = parked

    def withdrawn(self) -> None:
        self.left += 1

    def wasted(self, rows: int) -> None:
        self.wasted_rows += rows


class Server:
    """A loop over a toy, and what tests ask of it."""

    def __init__(self, engine: ToyEngine, **options: Any) -> None:
        self.engine = engine
        self.counts = Counts()
        self.loop = GenerationLoop(engine, **{"encode_prompt": encode_prompt, "observer": self.counts, **options})

    def stream(
        self,
        prompt: str | tuple[TokenId, ...],
        *,
        grammar: Grammar | None = None,
        output: tuple[TokenId, ...] = (),
        priority: int = 0,
        deadline: float | None = None,
        **sampling: Any,
    ) -> Any:
        params = Sampling(**{"temperature": 0.0, "ignore_eos": True, **sampling})
        said = TextPrompt(prompt) if isinstance(prompt, str) else TokenPrompt(prompt)
        request = Generate(RequestId("r"), ModelName("toy"), said, params, grammar, output, priority=priority)
        return self.loop.generate(request, deadline=deadline)

    async def ask(self, prompt: str | tuple[TokenId, ...], **options: Any) -> Chunk:
        """The whole answer in one chunk."""
        chunks = [chunk async for chunk in self.stream(prompt, **options)]
        assert [chunk.finish_reason is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
        return Chunk(
            text="".join(chunk.text for chunk in chunks),
            tokens=tuple(token for chunk in chunks for token in chunk.tokens),
            logprobs=tuple(logprob for chunk in chunks for logprob in chunk.logprobs),
            finish_reason=chunks[-1].finish_reason or FinishReason.STOP,
            usage=chunks[-1].usage,
        )


@pytest.fixture(autouse=True)
def _no_grammar_is_tried_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """That takes a process each; those that need it are with the integration tests."""
    monkeypatch.setattr(constraint, "try_out", lambda grammar, source, limits: 0)


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Server]]:
    """Makes servers; afterwards each must be idle, with its books in order, its engine closed."""
    servers: list[Server] = []

    def make(
        *, start: bool = True, limits: Limits | None = None, engine: ToyEngine | None = None, **rest: Any
    ) -> Server:
        server = Server(engine or ToyEngine(), **({"limits": limits} if limits else {}), **rest)
        servers.append(server)
        if start:
            server.loop.start()
        return server

    yield make
    for server in servers:
        await server.loop.close()
        server.loop.check_integrity()
        assert server.loop.load().in_flight == 0
        assert server.loop.load().kv_used == 0
        assert not server.engine.violations
        assert server.engine.closed
