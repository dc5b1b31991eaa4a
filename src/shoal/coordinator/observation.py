"""What one request tells the metrics, whichever way it ends."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from types import TracebackType
from typing import Final

from shoal.clock import now
from shoal.errors import Cancelled, ShoalError
from shoal.messages import Answer, Chunk, Inferred
from shoal.telemetry import CoordinatorMetrics


class Source:
    """How the answer to a client's request came about: a place that the surface keeps and the data plane fills."""

    __slots__ = ("cache", "fallback")

    def __init__(self) -> None:
        self.cache = ""  # hit, coalesced or miss; empty: nothing looked whether it was there
        self.fallback = ""  # the model that answered in place of the one that was asked for


_GONE: Final = asyncio.CancelledError, GeneratorExit  # what who waited for the answer leaves with

_source: ContextVar[Source | None] = ContextVar("source", default=None)


def watch_source() -> Source:
    """For the request that the current task handles. Of several runs for one request, one that missed counts most."""
    source = Source()
    _source.set(source)
    return source


def is_last(answer: Answer) -> bool:
    if isinstance(answer, Chunk):
        return answer.finish_reason is not None
    return not isinstance(answer, Inferred) or answer.last


class Observation:
    """Around a request, it counts it in, and out with its outcome: ``ok``, or the code of its error."""

    __slots__ = ("_last", "_metrics", "began", "complete", "model", "tokens")

    def __init__(self, metrics: CoordinatorMetrics, model: str) -> None:
        self._metrics = metrics
        self.model = model  # as it was asked for, then as it was found
        self.began = now()
        self._last: float | None = None  # when a part of the answer last came
        self.complete = False
        self.tokens: int | None = None  # of prompt and answer, once that is known

    def __enter__(self) -> Observation:
        self._metrics.began()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._metrics.finished(self.model, self._outcome(error), now() - self.began)

    def _outcome(self, error: BaseException | None) -> str:
        # Who has read the last part may go without asking whether there is more.
        if error is None or (self.complete and isinstance(error, _GONE)):
            return "ok"
        if isinstance(error, _GONE):
            return Cancelled.code
        return error.code if isinstance(error, ShoalError) else ShoalError.code

    def routed(self, policy: str, reason: str, at: float) -> None:
        self._metrics.routed(self.model, policy, reason, at - self.began)

    def found(self, cache: str) -> None:
        """What the response cache had to say: ``hit``, ``coalesced`` or ``miss``. Before the answer begins."""
        source = _source.get()
        if source is not None and source.cache != "miss":
            source.cache = cache

    def answered(self, answer: Answer) -> None:
        self.complete = is_last(answer)
        self._name_fallback(answer)
        if not isinstance(answer, Chunk):
            return
        at = now()
        if self._last is None:
            self._metrics.first_token(self.model, at - self.began)
        else:
            self._metrics.token_gap(self.model, at - self._last)
        self._last = at
        if answer.usage is not None:
            self.tokens = answer.usage.prompt_tokens + answer.usage.completion_tokens
            self._metrics.used(self.model, answer.usage)

    def _name_fallback(self, answer: Answer) -> None:
        if isinstance(answer, Chunk | Inferred) and answer.fallback and (source := _source.get()) is not None:
            source.fallback = answer.fallback
