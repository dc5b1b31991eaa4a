"""Steps that follow one another at once, in the engine's thread, so that none waits for the event loop.

They do while the same sequences go on: each has a new token that does not end it, and room for its KV. Whatever else
changes (somebody comes, leaves, waits) makes a step the last of its chain, and the next one is planned.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from functools import partial

from shoal.engines.base import LanguageEngine, Row
from shoal.types import TokenId
from shoal.worker.generation.engine_thread import EngineThread
from shoal.worker.generation.sampler import Sampled
from shoal.worker.generation.scheduler import Planned
from shoal.worker.generation.stepper import Outcome, Step, Stepper


class Chain:
    """The engine's thread. ``followed`` is called in the event loop when a step has ended and another has begun, with
    both. What was told must be delivered within ``patience`` seconds, or the next step is planned.
    """

    def __init__(
        self,
        engine: LanguageEngine,
        stepper: Stepper,
        *,
        followed: Callable[[Step, Sequence[Outcome], Step], None],
        patience: float,
    ) -> None:
        self._engine = engine
        self._stepper = stepper
        self._followed = followed
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._thread = EngineThread()
        self._delivered = threading.Event()

    def begin(self, step: Step) -> asyncio.Future[list[Outcome]]:
        """The step and those that can follow it. Gives the outcomes of the last."""
        self._delivered.clear()
        return self._thread.run(partial(self._run, step))

    def delivered(self) -> None:
        """Everybody has what the step before the one that runs said."""
        self._delivered.set()

    def close(self) -> asyncio.Future[None]:
        """Close the engine, once the last step has ended."""
        closing = self._thread.run(self._engine.close)
        self._thread.close()
        return closing

    def _run(self, step: Step) -> list[Outcome]:
        while True:
            outcomes = self._stepper.run(step)
            rows = self._next(step, outcomes)
            if rows is None:
                return outcomes
            after = step.followed_by(rows)
            self._loop.call_soon_threadsafe(self._followed, step, outcomes, after)
            step = after

    def _next(self, step: Step, outcomes: Sequence[Outcome]) -> list[Planned] | None:
        # An answer may end with what is being delivered.
        if step.last.is_set() or not self._delivered.wait(self._patience) or step.last.is_set():
            return None
        self._delivered.clear()
        return following(step.rows, outcomes, self._engine.tokenizer.eos_ids, self._engine.capabilities.block_size)


def following(
    rows: Sequence[Planned], outcomes: Sequence[Outcome], eos_ids: frozenset[TokenId], block_size: int
) -> list[Planned] | None:
    """The rows of the next step, and the tokens are the sequences' own; None, and nothing is changed, where the next
    has to be planned."""
    tokens = [outcome.token for outcome in outcomes if isinstance(outcome, Sampled)]
    if len(tokens) < len(rows):
        return None
    if not all(_goes_on(planned, token, eos_ids, block_size) for planned, token in zip(rows, tokens, strict=True)):
        return None
    return [_next(planned, token) for planned, token in zip(rows, tokens, strict=True)]


def _goes_on(planned: Planned, token: TokenId, eos_ids: frozenset[TokenId], block_size: int) -> bool:
    room = len(planned.row.blocks) * block_size
    return _end(planned.row) < room and planned.sequence.ends_with(token, eos_ids) is None


def _next(planned: Planned, token: TokenId) -> Planned:
    sequence, row = planned.sequence, planned.row
    sequence.output.append(token)
    return Planned(sequence, Row((token,), _end(row), row.blocks, wants_logits=True, generated=True))


def _end(row: Row) -> int:
    return row.start + len(row.tokens)
