"""Which sequences take part in the next step, and with how many tokens. Plain decisions: no engine, no clock.

A step takes one token of every sequence that decodes, and fills up with chunks of prompts and with output that is
replayed. Neither starves the other: a step is never so long that decoding stalls behind a prompt (``step_tokens``),
and so few sequences run at a time that a chunk of a prompt always fits beside their decoding.

Sequences are let in as :mod:`~shoal.worker.generation.waiting` says, and served in the order of their standing. When
there is no place for one of a higher class, or blocks run out, :mod:`~shoal.worker.generation.preemption` says who is
parked: it keeps its blocks while there is room, and is computed again from its tokens where there is not; its client
only sees a pause. The first can always go on, so everyone finishes. Where there are more answers in the middle than
places, as when another worker's came here, they take turns: many short pauses in place of a few long ones.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from shoal.engines.base import Capabilities, Row
from shoal.errors import Overloaded
from shoal.worker.generation.blocks import BlockPool
from shoal.worker.generation.pace import Pace
from shoal.worker.generation.preemption import Need, class_of, have_had_a_turn, in_order, make_way
from shoal.worker.generation.sequence import TokenSequence
from shoal.worker.generation.waiting import Waiting

#: Some engines give the same bits only for prompts that are cut at multiples of this many tokens.
ALIGNMENT = 32

RETRY_AFTER = 1.0  # seconds

Reason = Literal["priority", "memory", "turn"]


@dataclass(frozen=True, slots=True)
class Limits:
    step_tokens: int = 512  # over all rows: the longer a step, the longer its decoding rows wait for a token
    max_waiting: int = 256  # sequences that no step has begun
    step_seconds: float = 120.0  # no step may take longer; one of a size that is known, much less


@dataclass(frozen=True, slots=True)
class Planned:
    """A sequence's part in a step."""

    sequence: TokenSequence
    row: Row


@dataclass(slots=True)
class _Draft:
    """A step in the making."""

    budget: int  # tokens that are left, beside one of each sequence that decodes
    step: list[Planned] = field(default_factory=list)


class Scheduler:
    """The sequences of one engine: those in ``running``, in the order they were let in, hold blocks, and those that are
    parked may."""

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
        self.pace = Pace(least=self._step_tokens // 2)
        self.late: list[TokenSequence] = []  # refused by the last plan: their deadline comes before their first token
        self.preempted: Counter[str] = Counter()  # by reason
        self.recomputed = 0  # tokens, that were computed before

    def check_room(self, coming: int) -> None:
        """Raises :class:`~shoal.errors.Overloaded` if, with ``coming`` announced before it, one more is too many."""
        waiting = len(self.waiting) + coming
        if waiting >= self._max_waiting:
            message = f"{waiting} requests are waiting for this model; at most {self._max_waiting} may"
            raise Overloaded(message, retry_after=RETRY_AFTER)

    def submit(self, sequence: TokenSequence) -> None:
        self.waiting.append(sequence)

    def is_late(self, sequence: TokenSequence, at: float) -> bool:
        """Would its prompt alone take longer than it has? What was begun is never late."""
        if sequence.deadline == math.inf or sequence.cached is not None:
            return False
        known = len(self._known_prefix(sequence)) * self._capabilities.block_size
        return at + self.pace.seconds(len(sequence.prompt) - known) > sequence.deadline

    def remove(self, sequence: TokenSequence) -> None:
        """Finished, failed or no longer wanted. Also while a step runs: blocks are given away only by a plan."""
        self.running.pop(sequence, None)
        self.waiting.remove(sequence)
        self._release(sequence)

    def plan(self, at: float) -> list[Planned]:
        """The next step, at this time. Call it only when the last one has ended and was committed."""
        self.late = []
        self._take_turns(at)
        draft = _Draft(self._step_tokens - sum(map(self._decodes, self.running)))
        highest = self._highest(at)
        for sequence in in_order(self.running):
            if highest > sequence.standing:
                highest = self._let_in(draft, at, above=sequence.standing)
            if sequence in self.running:
                self._serve(draft, sequence, at)
        self._let_in(draft, at)
        return draft.step

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

    def _serve(self, draft: _Draft, sequence: TokenSequence, at: float) -> None:
        if self._decodes(sequence):
            if self._make_room(sequence, at):
                draft.step.append(self._row(sequence, 1))
            return
        # It has blocks for all its tokens since it was let in.
        count = self._share(sequence, draft.budget)
        if count:
            draft.step.append(self._row(sequence, count))
        draft.budget = draft.budget - count if count else 0  # nobody overtakes one for whom too little is left

    def _decodes(self, sequence: TokenSequence) -> bool:
        """Or replays a token a step, where the engine can do no more."""
        last = sequence.computed + 1 == sequence.length or self._capabilities.max_generated == 1
        return last and not sequence.prefilling

    def _highest(self, at: float) -> float:
        """Where the first of those that wait stands."""
        first = self._first(at)
        return -math.inf if first is None else self.waiting.standing(first, at)

    def _first(self, at: float) -> TokenSequence | None:
        full = len(self.running) >= self._max_running
        if not self.waiting or (full and self.waiting.highest_class <= min(each.standing for each in self.running)):
            return None  # as most often: nobody need be looked at
        return self.waiting.first(self.running, self._max_group, at)

    def _take_turns(self, at: float) -> None:
        """Where all places are taken, those that wait in the middle of an answer get one from who ran for a while. Only
        within a class, and nobody's blocks are taken."""
        if not self.waiting.parked or len(self.running) < self._max_running:
            return
        due = self.waiting.due(at)
        have_had = have_had_a_turn(reversed(self.running), at) if due else {}
        for sequence in due:
            victims = have_had.get(class_of(sequence))
            if victims and self._fits(sequence):
                self._park(victims.pop(), at, "turn")
                admitted = self._admit(sequence, at)
                assert admitted, "a place and its blocks are free"
                self._run(sequence, at)

    def _run(self, sequence: TokenSequence, at: float) -> None:
        self.waiting.take(sequence, at)
        self.running[sequence] = None

    def _let_in(self, draft: _Draft, at: float, above: float = -math.inf) -> float:
        """Those that stand above; returns where the next stands, if anybody may still be let in."""
        while draft.budget > 0 and (first := self._first(at)) is not None:
            highest = self.waiting.standing(first, at)
            if highest <= above:
                return highest
            if self.is_late(first, at):
                self.waiting.remove(first)
                self.late.append(first)
                continue
            if not self._admit(first, at):
                break
            self._run(first, at)
            draft.budget -= self._decodes(first)
            self._serve(draft, first, at)
        return -math.inf

    def _make_room(self, sequence: TokenSequence, at: float) -> bool:
        """A block for the next token, if need be somebody else's; False if it is itself the first to give way."""
        while len(sequence.blocks) * self._capabilities.block_size <= sequence.computed:
            blocks = self.pool.acquire((), 1)
            if blocks is not None:
                sequence.blocks += blocks
            elif holding := self.waiting.holding(at):
                self._drop(holding[0])
            else:
                last = in_order(self.running)[-1]
                self._park(last, at, "memory")
                if last is sequence:
                    return False
        return True

    def _park(self, sequence: TokenSequence, at: float, reason: Reason) -> None:
        del self.running[sequence]
        self.waiting.park(sequence, at)
        self.preempted[reason] += 1

    def _drop(self, sequence: TokenSequence) -> None:
        """Take its blocks: it will be computed again."""
        self._release(sequence)
        sequence.lost, sequence.computed = sequence.computed, 0

    def _release(self, sequence: TokenSequence) -> None:
        self.pool.release(sequence.blocks)
        sequence.blocks = []  # not cleared: rows of earlier steps are none of our business

    def _admit(self, sequence: TokenSequence, at: float) -> bool:
        """Give it a place, and blocks for all its known tokens, so that no prompt runs out of blocks half-way."""
        shared, fresh = self._needs(sequence)
        if not self._clear_way(sequence, fresh, shared, at):
            return False
        blocks = self.pool.acquire(shared, fresh, spare=self._spare())
        assert blocks is not None, "the way was cleared"
        if not sequence.blocks:
            sequence.computed = len(shared) * self._capabilities.block_size
            self.recomputed += max(0, sequence.lost - sequence.computed)
        sequence.blocks += blocks
        if sequence.cached is None:
            sequence.cached = sequence.computed
        return True

    def _needs(self, sequence: TokenSequence) -> tuple[list[int], int]:
        """The blocks that it can share, and how many it needs beside them."""
        shared = [] if sequence.blocks else self._known_prefix(sequence)
        return shared, -(-sequence.length // self._capabilities.block_size) - len(sequence.blocks) - len(shared)

    def _fits(self, sequence: TokenSequence) -> bool:
        shared, fresh = self._needs(sequence)
        return fresh + self._spare() <= self.pool.available_beside(shared)

    def _clear_way(self, sequence: TokenSequence, fresh: int, shared: Sequence[int], at: float) -> bool:
        need = Need(
            place=len(self.running) >= self._max_running,
            blocks=fresh + self._spare() - self.pool.available_beside(shared),
            shared=frozenset(shared),
        )
        way = make_way(
            sequence,
            need,
            running=in_order(self.running),
            parked=[other for other in self.waiting.holding(at) if other is not sequence],
            growing={other for other in self.running if self._will_grow(other)},
            pool=self.pool,
        )
        if way is None:
            return False
        for victim in way.park:
            self._park(victim, at, "priority")
        for victim in way.drop:
            self._drop(victim)
        return True

    def _spare(self) -> int:
        """A block for each that will grow, or a newcomer would be preempted again as soon as one does."""
        return sum(map(self._will_grow, self.running))

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
        held = {block for sequence in [*self.running, *self.waiting] for block in sequence.blocks}
        assert len(held) == self.pool.held, "a block is held by no sequence"
