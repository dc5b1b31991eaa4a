from __future__ import annotations

import numpy as np
import pytest

from shoal.engines.base import Row
from shoal.engines.toy import EOS, ToyEngine
from shoal.errors import EngineFailed

PROMPT = tuple(range(97, 97 + 26)) * 3


def logits(engine: ToyEngine, *rows: Row) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return engine.step(rows).copy()


def test_the_same_tokens_in_other_blocks_and_aligned_pieces_give_the_same_logits() -> None:
    engine = ToyEngine()
    whole = logits(engine, Row(PROMPT, 0, (1, 2, 3, 4, 5), True))
    logits(engine, Row(PROMPT[:32], 0, (9, 7), False))
    pieces = logits(engine, Row((97,), 0, (20,), False), Row(PROMPT[32:], 32, (9, 7, 11, 13, 12), True))
    assert np.array_equal(whole, pieces)


def test_every_position_counts_and_pieces_that_are_not_aligned_show() -> None:
    engine = ToyEngine()
    whole = logits(engine, Row(PROMPT, 0, (1, 2, 3, 4, 5), True))
    other = logits(engine, Row((98, *PROMPT[1:]), 0, (1, 2, 3, 4, 5), True))
    logits(engine, Row(PROMPT[:33], 0, (1, 2, 3), False))
    odd = logits(engine, Row(PROMPT[33:], 33, (1, 2, 3, 4, 5), True))
    assert not np.array_equal(whole, other)
    assert not np.array_equal(whole, odd)


def test_what_was_written_over_shows_in_the_next_token() -> None:
    engine = ToyEngine()
    logits(engine, Row(PROMPT, 0, (1, 2, 3, 4, 5), True))
    before = logits(engine, Row((97,), 78, (1, 2, 3, 4, 5), True))
    logits(engine, Row((97,), 0, (2,), False))
    assert not np.array_equal(before, logits(engine, Row((97,), 78, (1, 2, 3, 4, 5), True)))


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [Row((), 0, (1,), True)],
        [Row((97,) * 17, 0, (1,), True)],
        [Row((97,), 0, (256,), True)],
        [Row((97,), 0, (1, 1), True)],
        [Row((300,), 0, (1,), True)],
        [Row((97,), 16, (1, 2), True), Row((97,), 0, (2,), True)],
    ],
)
def test_rows_against_the_rules_are_refused_and_remembered(rows: list[Row]) -> None:
    engine = ToyEngine()
    with pytest.raises(EngineFailed):
        engine.step(rows)
    assert engine.violations


def test_blocks_may_be_shared_below_the_start() -> None:
    engine = ToyEngine()
    logits(engine, Row(PROMPT[:32], 0, (1, 2), False))
    first, second = logits(engine, Row((97,), 32, (1, 2, 3), True), Row((97,), 32, (1, 2, 4), True))
    assert np.array_equal(first, second)


def test_rows_that_want_none_get_no_logits() -> None:
    assert logits(ToyEngine(), Row((97,), 0, (1,), False), Row((97,), 0, (2,), True)).shape == (1, 257)


def test_control_tokens_are_read_only_where_they_may_be() -> None:
    tokenizer = ToyEngine().tokenizer
    assert tokenizer.encode("a<eos>b", special=True) == [97, EOS, 98]
    assert tokenizer.encode("<eos>", special=False) == list(b"<eos>")
    assert tokenizer.token_bytes(EOS) == b""
