"""Which way each token goes through attention, and the arrays that say so."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from shoal.engines.base import Row
from shoal.engines.openvino_batch import SAMPLED, Part, pack, plan

GHOST = 99  # the block that nobody reads


def prompt(tokens: Sequence[int], start: int, blocks: Sequence[int] = (0, 1), *, wants_logits: bool = True) -> Row:
    return Row(tokens, start, blocks, wants_logits)


def generated(tokens: Sequence[int], start: int, blocks: Sequence[int] = (0, 1), *, wants_logits: bool = True) -> Row:
    return Row(tokens, start, blocks, wants_logits, generated=True)


def parts(*rows: Row, threads: int = 1) -> list[Part]:
    return plan(rows, threads=threads, ghost_block=GHOST)


def test_a_prompt_goes_as_it_is() -> None:
    assert parts(prompt((5, 6, 7), 4)) == [Part((5, 6, 7), 4, (0, 1), 2)]


def test_a_lone_token_of_a_prompt_gets_company_that_nobody_looks_at() -> None:
    assert parts(prompt((5,), 31, (0,))) == [Part((5, 0), 31, (0, GHOST), 0)]


def test_generated_tokens_go_alone_however_many_come_at_a_time() -> None:
    assert parts(generated((5, 6, 7), 4)) == [
        Part((5,), 4, (0, 1), None),
        Part((6,), 5, (0, 1), None),
        Part((7,), 6, (0, 1), 0),
    ]


def test_nobody_samples_a_row_that_wants_no_logits() -> None:
    rows = [prompt((5, 6), 0, wants_logits=False), prompt((5,), 0, wants_logits=False)]
    assert [part.sampled for part in parts(*rows, generated((5, 6), 0, wants_logits=False))] == [None] * 4


@pytest.mark.parametrize(
    ("threads", "lone_rows", "ghost_tokens"),
    [(1, 1, 0), (2, 1, 1), (2, 2, 0), (3, 2, 1), (4, 1, 2), (16, 14, 2), (16, 15, 1), (16, 16, 0)],
)
def test_a_ghost_joins_where_lone_tokens_are_fewer_than_threads(
    threads: int, lone_rows: int, ghost_tokens: int
) -> None:
    added = parts(*[generated((5,), 4)] * lone_rows, threads=threads)[lone_rows:]
    assert added == ([Part((0,) * ghost_tokens, 0, (GHOST,), None)] if ghost_tokens else [])


def test_no_ghost_joins_a_prompt() -> None:
    assert len(parts(prompt((5, 6), 0), generated((7,), 40), threads=16)) == 2


def test_the_arrays_describe_the_batch() -> None:
    arrays = pack([Part((5, 6, 7), 31, (8, 3, 1), 2), Part((9,), 4, (2,), None), Part((4, 0), 0, (6, 7), 0)], 32)
    expected = {
        "input_ids": [5, 6, 7, 9, 4, 0],
        "position_ids": [31, 32, 33, 4, 0, 1],
        "past_lens": [31, 4, 0],
        "subsequence_begins": [0, 3, 4, 6],
        "block_indices": [8, 3, 2, 6],  # only those that the tokens reach
        "block_indices_begins": [0, 2, 3, 4],
        "max_context_len": 34,
        SAMPLED: [2, 4],
    }
    assert {name: array.tolist() for name, array in arrays.items()} == expected
    assert {name for name, array in arrays.items() if array.dtype == np.int64} == {"input_ids", "position_ids", SAMPLED}
    assert all(array.dtype in (np.int32, np.int64) for array in arrays.values())


def test_a_step_may_want_no_logits_at_all() -> None:
    assert pack([Part((5,), 0, (0,), None)], 32)[SAMPLED].tolist() == []
