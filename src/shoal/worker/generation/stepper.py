"""What happens in the engine's thread: compute a step, mask it, sample it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from shoal.engines.base import LanguageEngine, Logits
from shoal.errors import EngineFailed, InvalidRequest, ShoalError
from shoal.worker.generation.sampler import Draw, Sampled, sample
from shoal.worker.generation.scheduler import Planned
from shoal.worker.generation.sequence import TokenSequence

logger = logging.getLogger(__name__)

#: Of one row: a token, or None where none was wanted, or what went wrong.
Outcome = Sampled | ShoalError | None


class NotFinite(EngineFailed):
    """The model computed numbers from which no token can be chosen."""


@dataclass(frozen=True, slots=True)
class Step:
    rows: Sequence[Planned]
    unwanted: threading.Event = field(default_factory=threading.Event)  # nobody waits for any of its rows
    computed: threading.Event = field(default_factory=threading.Event)  # the engine did its part, at least for a row
    last: threading.Event = field(default_factory=threading.Event)  # of its chain: the next has to be planned

    def followed_by(self, rows: Sequence[Planned]) -> Step:
        """The next of its chain, of the same sequences."""
        return Step(rows, unwanted=self.unwanted, last=self.last)

    @property
    def tokens(self) -> int:
        return sum(len(planned.row.tokens) for planned in self.rows)


class Stepper:
    def __init__(self, engine: LanguageEngine) -> None:
        self._engine = engine

    def run(self, step: Step) -> list[Outcome]:
        """One outcome a row, in order. Raises nothing."""
        return self._run(step, step.rows)

    def interrupt(self, step: Step) -> None:
        """Nobody wants the step any more: make it end early. Called from another thread."""
        step.unwanted.set()
        self._engine.interrupt()

    def _run(self, step: Step, rows: Sequence[Planned]) -> list[Outcome]:
        if step.unwanted.is_set():
            return [EngineFailed("the step was interrupted") for _ in rows]
        try:
            return self._compute(step, rows)
        except Exception as error:  # a border: the error is the outcome
            if step.unwanted.is_set() or len(rows) == 1:
                return [_translate(error, step) for _ in rows]
        # The positions of a step that failed may be computed again. Row by row, only the culprit fails.
        logger.warning("a step of %d rows failed, each is tried alone", len(rows), extra={"action": "step_split"})
        return [outcome for row in rows for outcome in self._run(step, [row])]

    def _compute(self, step: Step, rows: Sequence[Planned]) -> list[Outcome]:
        logits = self._engine.step([planned.row for planned in rows])
        wanting = [planned.sequence for planned in rows if planned.row.wants_logits]
        expected = (len(wanting), self._engine.capabilities.vocab_size)
        if logits.shape != expected:
            raise EngineFailed(f"the engine answered with logits of shape {logits.shape}, not {expected}")
        step.computed.set()
        chosen = iter(_choose(logits, wanting))
        return [next(chosen) if planned.row.wants_logits else None for planned in rows]


def _choose(logits: Logits, sequences: Sequence[TokenSequence]) -> list[Outcome]:
    """One outcome a sequence: a grammar that fails does so for its own alone, and nothing is computed again."""
    draws = [_draw(sequence) for sequence in sequences]
    good = [index for index, draw in enumerate(draws) if isinstance(draw, Draw)]
    if len(good) < len(draws):
        logits = logits[good]
    sampled = iter(sample(logits, [draw for draw in draws if isinstance(draw, Draw)]))
    rows = iter(logits)
    return [
        _settle(sequence, next(rows), next(sampled)) if isinstance(draw, Draw) else draw
        for sequence, draw in zip(sequences, draws, strict=True)
    ]


def _draw(sequence: TokenSequence) -> Draw | ShoalError:
    try:
        allowed = None if sequence.constraint is None else sequence.constraint.allowed()
    except InvalidRequest as error:
        return error
    return Draw(sequence.sampling, sequence.prompt, sequence.output, allowed)


def _settle(sequence: TokenSequence, logits: Logits, sampled: Sampled | None) -> Outcome:
    """``logits``: shape (vocab_size,), those that were sampled."""
    if sampled is None:
        return _nothing_to_choose(sequence, logits)
    if sequence.constraint is not None:
        try:
            sequence.constraint.advance(sampled.token)
        except InvalidRequest as error:
            return error
    return sampled


def _nothing_to_choose(sequence: TokenSequence, logits: Logits) -> ShoalError:
    if not np.isfinite(logits.max()):  # also where any of them is a NaN
        return NotFinite()
    if sequence.constraint is not None:
        return InvalidRequest("the grammar leaves no token that may come next", param=sequence.constraint.param)
    return InvalidRequest("the penalties and biases leave no token that may come next")


def _translate(error: Exception, step: Step) -> ShoalError:
    if isinstance(error, ShoalError):
        return error
    logger.error("the engine failed", exc_info=error, extra={"action": "engine_failed", "rows": len(step.rows)})
    failed = EngineFailed(f"the engine failed: {error}")
    failed.__cause__ = error
    return failed
