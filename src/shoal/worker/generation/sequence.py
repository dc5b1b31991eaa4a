"""One answer in the making: its tokens, how many of them the engine has computed, and in which blocks.

The rule that makes an answer the same after a preemption (and on another worker): the tokens of the prompt are
computed in chunks, those of the output each as a lone token, always, also when they are computed again. A row is
sampled only when it reaches the end of all known tokens; until then the sequence replays what it has already said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from shoal.types import FinishReason, Sampling, TokenId
from shoal.worker.generation.blocks import BlockKey
from shoal.worker.generation.constraint import Constraint


@dataclass(eq=False, slots=True)
class TokenSequence:
    prompt: tuple[TokenId, ...]
    sampling: Sampling
    max_length: int  # tokens, prompt and output, at which it ends
    keys: Sequence[BlockKey] = ()  # of the prompt's full blocks; empty where blocks cannot be shared
    constraint: Constraint | None = None  # belongs to the engine's thread
    group: str = ""  # of sequences that share their turns; empty: it has its own
    priority: int = 0  # the higher, the sooner
    arrived: float = 0.0  # seconds on a clock that is the same for all
    deadline: float = math.inf  # on the same clock
    since: float = 0.0  # when it, or its group, last began to wait
    waited: float = 0.0  # seconds, before it was last let in
    let_in: float = 0.0  # when that was
    standing: int = 0  # while it runs: its class and what it has gained by waiting
    output: list[TokenId] = field(default_factory=list)
    computed: int = 0  # leading tokens whose KV is in the blocks
    blocks: list[int] = field(default_factory=list)
    cached: int | None = None  # tokens whose KV was there when it was first admitted
    lost: int = 0  # tokens that were computed when its blocks were taken away

    @property
    def length(self) -> int:
        """Tokens known so far."""
        return len(self.prompt) + len(self.output)

    @property
    def prefilling(self) -> bool:
        return self.computed < len(self.prompt)

    def next_tokens(self, count: int) -> Sequence[TokenId]:
        """The tokens to compute next: up to ``count``, either of the prompt or of the output."""
        if self.prefilling:
            return self.prompt[self.computed : self.computed + count]
        said = self.computed - len(self.prompt)
        return tuple(self.output[said : said + count])

    def append(self, token: TokenId, eos_ids: frozenset[TokenId]) -> FinishReason | None:
        """Add a token of the output; says whether the answer ends with it."""
        reason = self.ends_with(token, eos_ids)
        self.output.append(token)
        return reason

    def ends_with(self, token: TokenId, eos_ids: frozenset[TokenId]) -> FinishReason | None:
        """Would the answer end with this token, and why? Stop strings are not seen here."""
        if token in eos_ids and not self.sampling.ignore_eos:
            return FinishReason.STOP
        if self.constraint is not None and self.constraint.complete:
            return FinishReason.STOP
        return FinishReason.LENGTH if self.length + 1 >= self.max_length else None
