"""Which sequences take part in the next step, and with how many tokens. Plain decisions: no engine, no clock.

A step first takes one token of every sequence that decodes, then fills up with chunks of prompts and with output that
is replayed, the oldest first. Neither starves the other: a step is never so long that decoding stalls behind a prompt
(``step_tokens``), and so few sequences run at a time that a chunk of a prompt always fits beside their decoding.

Sequences are let in as :mod:`~shoal.worker.generation.waiting` says, and then served in that order. When blocks run
out, the one let in last gives its blocks back and waits at the head of the queue, to be computed again from its
tokens; its client only sees a pause. The first can always go on, so everyone finishes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from shoal.engines.base import Capabilities, Row
from shoal.errors import Overloaded
from shoal.worker.generation.blocks import BlockPool
from shoal.worker.generation.sequence import TokenSequence
from shoal.worker.generation.waiting import Waiting

#: Some engines give the same bits only for prompts that are cut at multiples of this many tokens.
ALIGNMENT = 32

RETRY_AFTER = 1.0  # seconds


@dataclass(frozen=True, slots=True)
class Limits:
    step_tokens: int = 512  # over all rows: the longer a step, the longer its decoding rows wait for a token
    max_waiting: int = 256  # sequences that no step has begun
    step_seconds: float = 120.0  # a step that takes longer does not end at all: the engine hangs


@dataclass(frozen=True, slots=True)
class Planned:
    """A sequence's part in a step."""

    sequence: TokenSequence
    row: Row


class Scheduler:
    """The sequences of one engine: those in ``running``, in the order they were let in, hold blocks, others none."""

    def __init__(self, capabilities: Capabilities, limits: Limits) -> None:
        """Raises ValueError for an engine whose steps have no room for a chunk beside a decoding row."""
        self._capabilities = capabilities
        self._max_waiting = limits.max_waiting
        self._step_tokens = min(limits.step_tokens, capabilities.max_step_tokens)
        if self._step_tokens <= ALIGNMENT:
            raise ValueError(f"a step must hold more than {ALIGNMENT} tokens, not {self._step_tokens}")
        self._max_running = min(capabilities.max_sequences, self._step_tokens - ALIGNMENT)
        #: Of one group: a request of many generations leaves room for the next one.
        self._max_group = max(1, self._max_running - max(1, self._max_running // 4))
        self.pool = BlockPool(capabilities.num_blocks)
        self.running: dict[TokenSequence, None] = {}  # in order, and found at once
        self.waiting = Waiting()

    def check_room(self, coming: int) -> None:
        """Raises :class:`~shoal.errors.Overloaded` if, with ``coming`` announced before it, one more is too many."""
        waiting = len(self.waiting) + coming
        if waiting >= self._max_waiting:
            message = f"{waiting} requests are waiting for this model; at most {self._max_waiting} may"
            raise Overloaded(message, retry_after=RETRY_AFTER)

    def submit(self, sequence: TokenSequence) -> None:
        self.waiting.append(sequence)

    def remove(self, sequence: TokenSequence) -> None:
        """Finished, failed or no longer wanted. Also while a step runs: blocks are given away only by a plan."""
        if sequence in self.running:
            del self.running[sequence]
            self._release(sequence)
        else:
            self.waiting.remove(sequence)

    def plan(self) -> list[Planned]:
        """The next step. Call it only when the last one has ended and was committed."""
        step = [self._row(sequence, 1) for sequence in self._decoding()]
        budget = self._step_tokens - len(step)
        for sequence in self._behind():
            count = self._share(sequence, budget)
            if count == 0:
                break
            step.append(self._row(sequence, count))
            budget -= count
        return step

    def commit(self, planned: Planned) -> None:
        """The engine has computed this row."""
        sequence, size = planned.sequence, self._capabilities.block_size
        before = sequence.computed // size
        sequence.computed += len(planned.row.tokens)
        # There are keys for full blocks of the prompt alone.
        for index in range(before, min(sequence.computed // size, len(sequence.keys))):
            self.pool.publish(sequence.blocks[index], sequence.keys[index])

    def _row(self, sequence: TokenSequence, count: int) -> Planned:
        tokens = sequence.next_tokens(count)
        at_end = sequence.computed + len(tokens) == sequence.length
        row = Row(tokens, sequence.computed, tuple(sequence.blocks), at_end, generated=not sequence.prefilling)
        return Planned(sequence, row)

    def _decoding(self) -> Iterator[TokenSequence]:
        for sequence in list(self.running):
            # One that an older one has just sent back is not among them: it begins again with its prompt.
            if self._decodes(sequence) and self._make_room(sequence):
                yield sequence

    def _decodes(self, sequence: TokenSequence) -> bool:
        """Or replays a token a step, where the engine can do no more."""
        last = sequence.computed + 1 == sequence.length or self._capabilities.max_generated == 1
        return last and not sequence.prefilling

    def _behind(self) -> Iterator[TokenSequence]:
        """Those with more than a token to compute. They have blocks for all of them since they were admitted."""
        yield from [sequence for sequence in self.running if not self._decodes(sequence)]
        while (sequence := self._next()) is not None and self._admit(sequence):
            self.waiting.remove(sequence)
            self.running[sequence] = None
            yield sequence

    def _next(self) -> TokenSequence | None:
        if not self.waiting or len(self.running) >= self._max_running:
            return None
        return self.waiting.first(self.running, self._max_group)

    def _make_room(self, sequence: TokenSequence) -> bool:
        """A block for the next token, if need be a younger sequence's; False if it is itself the youngest."""
        while len(sequence.blocks) * self._capabilities.block_size <= sequence.computed:
            blocks = self.pool.acquire((), 1)
            if blocks is not None:
                sequence.blocks += blocks
            elif self._preempt_youngest() is sequence:
                return False
        return True

    def _preempt_youngest(self) -> TokenSequence:
        victim, _ = self.running.popitem()
        self._release(victim)
        victim.computed = 0
        self.waiting.send_back(victim)
        return victim

    def _release(self, sequence: TokenSequence) -> None:
        self.pool.release(sequence.blocks)
        sequence.blocks = []  # not cleared: rows of earlier steps are none of our business

    def _admit(self, sequence: TokenSequence) -> bool:
        """Give it blocks for all its known tokens, so that no prompt runs out of blocks half-way."""
        shared = self._known_prefix(sequence)
        fresh = -(-sequence.length // self._capabilities.block_size) - len(shared)
        # A block for each that will grow, or the newcomer would be preempted again as soon as one does.
        blocks = self.pool.acquire(shared, fresh, spare=sum(map(self._will_grow, self.running)))
        if blocks is None:
            return False
        sequence.blocks = blocks
        sequence.computed = len(shared) * self._capabilities.block_size
        if sequence.cached is None:
            sequence.cached = sequence.computed
        return True

    def _known_prefix(self, sequence: TokenSequence) -> list[int]:
        """Blocks that need not be computed. The prompt's last token always is: its logits are wanted."""
        size = self._capabilities.block_size
        shared = self.pool.match(sequence.keys[: (len(sequence.prompt) - 1) // size])
        while len(shared) * size % ALIGNMENT:
            shared.pop()
        return shared

    def _share(self, sequence: TokenSequence, budget: int) -> int:
        """How many of its tokens fit the budget: of the prompt cut where it may be cut, 0 if nothing does."""
        if not sequence.prefilling:
            return min(sequence.length - sequence.computed, budget, self._capabilities.max_generated)
        left = len(sequence.prompt) - sequence.computed
        if left <= budget:
            return left
        return (sequence.computed + budget) // ALIGNMENT * ALIGNMENT - sequence.computed

    def _will_grow(self, sequence: TokenSequence) -> bool:
        return len(sequence.blocks) * self._capabilities.block_size < sequence.max_length

    def check_idle(self) -> None:
        """Raises AssertionError if, after a plan came out empty, somebody is left behind or blocks leaked."""
        assert not self.running, "sequences are running, but none can go on"
        assert not self.waiting, "sequences are waiting, but none is let in"
        assert self.pool.held == 0, f"{self.pool.held} blocks are held by nobody"

    def check_integrity(self) -> None:
        """Raises AssertionError if the books do not agree. Takes time with the number of blocks."""
        self.pool.check_integrity()
        held = {block for sequence in self.running for block in sequence.blocks}
        assert len(held) == self.pool.held, "a block is held by no sequence"
        assert not any(sequence.blocks for sequence in self.waiting), "a waiting sequence holds blocks"
