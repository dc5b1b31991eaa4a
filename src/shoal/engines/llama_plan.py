"""What the llama engine decides before it calls llama.cpp: how memory is divided and what is computed together.

**The same bits in any company.** llama.cpp has different kernels for few and for many tokens a call, and they differ
in the last bits. A row's result shall depend neither on the other rows of a step nor on how a prompt was cut at
multiples of ``CHUNK``. So:

* A row of several tokens has a call of its own.
* Where a row ends less than ``SHORT`` tokens after a multiple of ``CHUNK``, those tokens have a call of their own, as
  they have when the prompt is cut there. All other calls for prompts are long enough for the other kernel.
* Rows of one token share a call. Several generated tokens of one sequence cannot: a call computes them together, with
  other last bits already for two. So an answer that is taken up again is replayed a token a step.

It needs flash attention off, which adds in another order from 64 tokens a call on, and from position 256 on where a
token's sequence has no neighbour in the call; and a buffer for every sequence, so that nobody's cells lie between a
row's own. ``docs/performance.md`` has what that costs short contexts, and what it saves long ones.

**Where it does not hold.** Measured with weights of one type on an AVX2 build: how a prompt is cut changes no bit,
whatever the type. Rows of one token get the same bits alone and together for Q4_0, Q4_1, Q5_0, Q8_0 and IQ4_NL; for
Q2_K, Q3_K, Q5_K, Q6_K and IQ4_XS with up to 5 rows in a step (not with 8), for Q4_K with up to 3; for F16, BF16 and
F32 a row alone differs from one in company. Smaller calls would mend that at a multiple of the cost of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shoal.engines.base import Capabilities, Row
from shoal.errors import EngineFailed, ModelLoadFailed
from shoal.types import TokenId

CHUNK = 32  # tokens: prompts are cut at multiples of it
SHORT = 8  # tokens: from here on a call uses the kernels for many
CELLS = 256  # llama.cpp rounds a sequence's context up to a multiple of this
LEAST_CONTEXT = 1024  # tokens: shorter contexts are of so little use that fewer sequences are better
MAX_SEQUENCES = 256  # llama.cpp's own limit
MAX_STEP_TOKENS = 512  # bounds the memory of a step's activations; more makes a prompt no faster


@dataclass(frozen=True, slots=True)
class Room:
    """How the KV memory is divided."""

    sequences: int
    context: int  # tokens of one sequence

    @property
    def cells(self) -> int:
        """What one sequence takes of the memory, in tokens."""
        return -(-self.context // CELLS) * CELLS


def divide(kv_tokens: int, max_sequences: int, trained_context: int) -> Room:
    """As many sequences as asked for, but fewer rather than ones shorter than ``LEAST_CONTEXT``.

    Raises :class:`~shoal.errors.ModelLoadFailed` where there is no room for a single short sequence.
    """
    if kv_tokens < CELLS:
        raise ModelLoadFailed(f"kv_tokens is {kv_tokens}; the llama engine needs at least {CELLS}")
    least = max(CELLS, min(LEAST_CONTEXT, trained_context))
    sequences = max(1, min(max_sequences, MAX_SEQUENCES, kv_tokens // least))
    share = kv_tokens // sequences // CELLS * CELLS
    return Room(sequences, min(trained_context, share))


@dataclass(frozen=True, slots=True)
class Part:
    """A row's tokens, or some of them, in one call of ``llama_decode``."""

    tokens: Sequence[TokenId]
    start: int
    sequence: int
    output: int | None  # which row of the step's logits its last token fills


def plan_calls(rows: Sequence[Row]) -> list[list[Part]]:
    """What is computed together: every run of tokens alone, then all single tokens.

    Those are sorted, because llama.cpp computes runs of increasing neighbours at once.
    """
    runs: list[list[Part]] = []
    singles: list[Part] = []
    outputs = iter(range(len(rows)))
    for row in rows:
        for part in _cut(row, next(outputs) if row.wants_logits else None):
            if len(part.tokens) == 1:
                singles.append(part)
            else:
                runs.append([part])
    singles.sort(key=lambda part: part.sequence)
    return [*runs, singles] if singles else runs


def _cut(row: Row, output: int | None) -> list[Part]:
    (sequence,) = row.blocks
    tail = (row.start + len(row.tokens)) % CHUNK
    head = len(row.tokens) - tail
    if head <= 0 or tail == 0 or tail >= SHORT:
        return [Part(row.tokens, row.start, sequence, output)]
    return [
        Part(row.tokens[:head], row.start, sequence, None),
        Part(row.tokens[head:], row.start + head, sequence, output),
    ]


def check_rows(rows: Sequence[Row], limits: Capabilities) -> None:
    """Raises :class:`~shoal.errors.EngineFailed` for what would abort the process or compute nonsense."""
    if len(rows) > limits.max_sequences:
        raise EngineFailed(f"a step has {len(rows)} rows; the limit is {limits.max_sequences}")
    if (total := sum(len(row.tokens) for row in rows)) > limits.max_step_tokens:
        raise EngineFailed(f"a step has {total} tokens; the limit is {limits.max_step_tokens}")
    for row in rows:
        _check_row(row, limits)
    if len({row.blocks[0] for row in rows}) < len(rows):
        raise EngineFailed("two rows of a step have the same block; this engine shares none")


def _check_row(row: Row, limits: Capabilities) -> None:
    if len(row.blocks) != 1 or not 0 <= row.blocks[0] < limits.num_blocks:
        raise EngineFailed(f"a row has blocks {list(row.blocks)}, not one of 0 to {limits.num_blocks - 1}")
    if not row.tokens:
        raise EngineFailed("a row has no tokens")
    if row.generated and len(row.tokens) > limits.max_generated:
        raise EngineFailed(f"a row has {len(row.tokens)} generated tokens; the limit is {limits.max_generated}")
    if row.start < 0 or row.start + len(row.tokens) > limits.context_length:
        raise EngineFailed(
            f"a row has positions {row.start} to {row.start + len(row.tokens) - 1};"
            f" the context is {limits.context_length} tokens"
        )
    if min(row.tokens) < 0 or max(row.tokens) >= limits.vocab_size:
        raise EngineFailed(f"a row has a token outside the vocabulary of {limits.vocab_size} tokens")
