"""What the llama engine decides: pure, without llama.cpp."""

from __future__ import annotations

import pytest

from shoal.engines.base import Capabilities, Row
from shoal.engines.llama_plan import Part, Room, check_rows, divide, plan_calls
from shoal.errors import EngineFailed, ModelLoadFailed

LIMITS = Capabilities(
    vocab_size=100,
    context_length=256,
    block_size=256,
    num_blocks=4,
    max_sequences=4,
    max_step_tokens=128,
    share_prefixes=False,
    max_generated=1,
)


def row(start: int, count: int, block: int = 0, *, wants_logits: bool = True) -> Row:
    return Row(range(count), start, (block,), wants_logits)


@pytest.mark.parametrize(
    ("kv_tokens", "max_sequences", "trained", "room"),
    [
        (16384, 64, 8192, Room(16, 1024)),  # 64 would get 256 tokens each
        (16384, 8, 8192, Room(8, 2048)),
        (16384, 1, 8192, Room(1, 8192)),  # no longer than it was trained for
        (16384, 3, 8192, Room(3, 5376)),  # in steps of 256
        (1_000_000, 10_000, 8192, Room(256, 3840)),  # llama.cpp knows 256 sequences
        (512, 64, 8192, Room(1, 512)),  # too little for one of 1024, so one shorter
        (16384, 64, 512, Room(32, 512)),  # a model of short contexts wants no more
        (16384, 64, 100, Room(64, 100)),
        (256, 1, 8192, Room(1, 256)),
    ],
)
def test_memory_goes_to_fewer_sequences_before_they_get_too_short(
    kv_tokens: int, max_sequences: int, trained: int, room: Room
) -> None:
    assert divide(kv_tokens, max_sequences, trained) == room


@pytest.mark.parametrize("trained", [1, 100, 300, 2048, 8192, 131072])
@pytest.mark.parametrize("max_sequences", [1, 2, 7, 64, 1000])
@pytest.mark.parametrize("kv_tokens", [256, 300, 1023, 5000, 16384, 99_999])
def test_the_division_never_exceeds_what_was_granted(kv_tokens: int, max_sequences: int, trained: int) -> None:
    room = divide(kv_tokens, max_sequences, trained)

    assert room.cells % 256 == 0
    assert room.context <= room.cells
    assert room.cells * room.sequences <= kv_tokens
    assert 1 <= room.sequences <= max_sequences
    assert 1 <= room.context <= trained


def test_too_little_memory_for_one_sequence_is_refused_with_the_limit() -> None:
    with pytest.raises(ModelLoadFailed, match=r"kv_tokens is 255.*at least 256"):
        divide(255, 1, 8192)


def test_single_tokens_share_a_call_in_the_order_of_their_sequences() -> None:
    rows = [Row((7,), 40, (2,), True), Row((8,), 90, (0,), True)]

    assert plan_calls(rows) == [[Part((8,), 90, 0, 1), Part((7,), 40, 2, 0)]]


def test_a_prompt_has_a_call_of_its_own_before_the_single_tokens() -> None:
    rows = [Row((7,), 40, (2,), True), row(0, 64, 1, wants_logits=False), row(0, 20, 3)]

    assert plan_calls(rows) == [
        [Part(range(64), 0, 1, None)],
        [Part(range(20), 0, 3, 1)],
        [Part((7,), 40, 2, 0)],
    ]


@pytest.mark.parametrize(
    ("start", "count", "sizes"),
    [
        (0, 32, [32]),
        (0, 33, [32, 1]),
        (0, 39, [32, 7]),
        (0, 40, [40]),  # enough for the kernels of long calls
        (0, 63, [63]),
        (32, 65, [64, 1]),
        (32, 7, [7]),  # as it comes when the prompt was cut
        (0, 5, [5]),
        (31, 2, [1, 1]),
    ],
)
def test_a_short_tail_is_computed_as_if_the_prompt_were_cut_before_it(start: int, count: int, sizes: list[int]) -> None:
    calls = plan_calls([row(start, count)])

    parts = [part for call in calls for part in call]
    assert [len(part.tokens) for part in parts] == sizes
    assert [token for part in parts for token in part.tokens] == list(range(count))
    assert [part.output for part in parts] == [None] * (len(sizes) - 1) + [0]


def test_a_step_without_rows_has_no_calls() -> None:
    assert plan_calls([]) == []


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([row(0, 1, block) for block in range(4)] + [row(0, 1)], "5 rows; the limit is 4"),
        ([row(0, 65, 0), row(0, 64, 1)], "129 tokens; the limit is 128"),
        ([Row((1,), 0, (), True)], "one of 0 to 3"),
        ([Row((1,), 0, (0, 1), True)], "one of 0 to 3"),
        ([row(0, 1, 4)], "one of 0 to 3"),
        ([row(0, 1, -1)], "one of 0 to 3"),
        ([row(0, 0)], "no tokens"),
        ([row(-1, 1)], "positions -1"),
        ([row(200, 57)], "positions 200 to 256; the context is 256"),
        ([Row((3, 100), 0, (0,), True)], "outside the vocabulary"),
        ([Row((-1, 3), 0, (0,), True)], "outside the vocabulary"),
        ([row(0, 1, 2), row(0, 1, 2)], "same block"),
    ],
)
def test_rows_that_would_abort_the_process_are_refused(rows: list[Row], reason: str) -> None:
    with pytest.raises(EngineFailed, match=reason):
        check_rows(rows, LIMITS)


def test_rows_at_every_limit_pass() -> None:
    check_rows([row(192, 64, 3), row(0, 62, 0), row(255, 1, 1), row(99, 1, 2)], LIMITS)
