"""How the rows of a step become the ragged batch that OpenVINO's paged attention reads. No OpenVINO in here.

**The same bits in any company.** Attention has three ways to compute a token, and they round differently:

1. a token alone in its row looks at each key in turn;
2. a row of several tokens multiplies blocks of queries with blocks of keys;
3. where there are fewer rows than threads and each has one token, the context is split over the threads.

Which way a token goes must follow from what it is and not from its company, or an answer would change with the
load and with the place where it is continued. So generated tokens go the first way, each in a row of its own however
many come at a time; prompts go the second, a lone token of one with a second that nobody looks at; and the third is
never taken, since a ghost row is added where it would be. All else in the graph is computed token by token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from shoal.engines.base import Row
from shoal.types import Array, TokenId

SAMPLED = "sampled"  # the input that names the tokens whose logits are wanted


@dataclass(frozen=True, slots=True)
class Part:
    """One row as OpenVINO sees it."""

    tokens: Sequence[TokenId]
    start: int
    blocks: Sequence[int]
    sampled: int | None  # the token, counted within the part, whose logits are wanted


def plan(rows: Sequence[Row], *, threads: int, ghost_block: int) -> list[Part]:
    """The parts to compute for ``rows``. ``ghost_block`` holds what nobody will read."""
    parts = [part for row in rows for part in _parts(row, ghost_block)]
    if len(parts) < threads and all(len(part.tokens) == 1 for part in parts):
        # Either fills up the number of threads or is a row of more than one token, as the third way has none.
        enough = len(parts) + 1 == threads
        parts.append(ghost(ghost_block, tokens=1 if enough else 2))
    return parts


def _parts(row: Row, ghost_block: int) -> Iterable[Part]:
    last = len(row.tokens) - 1
    if row.generated:
        for index, token in enumerate(row.tokens):
            wanted = row.wants_logits and index == last
            yield Part((token,), row.start + index, row.blocks, 0 if wanted else None)
    else:
        # Where the row's own blocks end, the token that nobody looks at falls into the ghost's.
        tokens, blocks = (row.tokens, row.blocks) if last else ((row.tokens[0], 0), (*row.blocks, ghost_block))
        yield Part(tokens, row.start, blocks, last if row.wants_logits else None)


def ghost(block: int, *, tokens: int, sampled: int | None = None) -> Part:
    return Part((0,) * tokens, 0, (block,), sampled)


def pack(parts: Sequence[Part], block_size: int) -> dict[str, Array]:
    """The inputs of the rewritten graph, by name."""
    lengths = np.array([len(part.tokens) for part in parts])
    past = np.array([part.start for part in parts], np.int32)
    begins = _begins(lengths)
    tables = [part.blocks[: -(-(part.start + len(part.tokens)) // block_size)] for part in parts]
    sampled = [int(begins[i]) + part.sampled for i, part in enumerate(parts) if part.sampled is not None]
    return {
        "input_ids": _flat((part.tokens for part in parts), np.int64),
        "position_ids": np.arange(begins[-1], dtype=np.int64) + np.repeat(past - begins[:-1], lengths),
        "past_lens": past,
        "subsequence_begins": begins,
        "block_indices": _flat(tables, np.int32),
        "block_indices_begins": _begins(np.array([len(table) for table in tables])),
        "max_context_len": np.array((past + lengths).max(), np.int32),
        SAMPLED: np.array(sampled, np.int64),
    }


def _flat(lists: Iterable[Sequence[int]], kind: type[np.integer[Any]]) -> Array:
    return np.fromiter(chain.from_iterable(lists), kind)


def _begins(lengths: Array) -> Array:
    return np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
