from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shoal.worker.generation import blocks
from shoal.worker.generation.blocks import BlockPool, block_keys

SIZE = 4


def keys_of(text: str, salt: bytes = b"") -> list[blocks.BlockKey]:
    return block_keys([ord(char) for char in text], SIZE, salt)


def publish(pool: BlockPool, text: str) -> list[int]:
    keys = keys_of(text)
    table = pool.acquire((), len(keys))
    assert table is not None
    for block, key in zip(table, keys, strict=True):
        pool.publish(block, key)
    return table


def test_a_prompt_finds_the_blocks_of_one_that_begins_the_same() -> None:
    pool = BlockPool(8)
    table = publish(pool, "aaaabbbbcccc")
    assert pool.match(keys_of("aaaabbbbdddd")) == table[:2]
    assert pool.match(keys_of("bbbb")) == []


def test_only_full_blocks_have_keys() -> None:
    assert len(keys_of("aaaabbb")) == 1


def test_another_salt_shares_nothing() -> None:
    pool = BlockPool(8)
    publish(pool, "aaaabbbb")
    assert pool.match(keys_of("aaaabbbb", salt=b"other tenant")) == []


def test_equal_digests_do_not_make_equal_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_digest", lambda data: b"always the same")
    pool = BlockPool(8)
    publish(pool, "aaaa")
    assert pool.match(keys_of("bbbb")) == []


def test_kept_blocks_are_given_away_longest_unused_first_and_tails_before_heads() -> None:
    pool = BlockPool(4)
    old, new = publish(pool, "aaaabbbb"), publish(pool, "ccccdddd")
    pool.release(old)
    pool.release(new)
    assert pool.available == 4
    pool.acquire((), 1)
    assert pool.match(keys_of("aaaabbbb")) == old[:1]
    assert pool.match(keys_of("ccccdddd")) == new


def test_the_lowest_free_block_is_given_away_first() -> None:
    pool = BlockPool(8)
    tables = [pool.acquire((), 1) for _ in range(6)]
    for table in (tables[4], tables[1], tables[3]):
        pool.release(table or [])
    assert pool.acquire((), 4) == [1, 3, 4, 6]


def test_taking_a_kept_block_again_saves_it() -> None:
    pool = BlockPool(2)
    table = publish(pool, "aaaa")
    pool.release(table)
    assert pool.acquire(table, 1) is not None
    assert pool.acquire((), 1) is None
    assert pool.match(keys_of("aaaa")) == table


def test_what_does_not_fit_takes_nothing() -> None:
    pool = BlockPool(4)
    table = publish(pool, "aaaa")
    pool.release(table)
    assert pool.acquire(table, 4) is None
    assert pool.acquire((), 4, spare=1) is None
    assert pool.available == 4
    pool.check_integrity()


class PoolMachine(RuleBasedStateMachine):
    """Tables come and go; what a published block holds is remembered apart, as the engine's memory would."""

    @initialize(size=st.integers(1, 12))
    def begin(self, size: int) -> None:
        self.pool = BlockPool(size)
        self.tables: list[tuple[list[int], list[blocks.BlockKey]]] = []
        self.memory: dict[int, list[blocks.BlockKey]] = {}

    @rule(text=st.text("ab", max_size=24), extra=st.integers(0, 2), spare=st.integers(0, 3))
    def open(self, text: str, extra: int, spare: int) -> None:
        keys = keys_of(text)
        shared = self.pool.match(keys)
        for index, block in enumerate(shared):
            assert self.memory[block] == keys[: index + 1], "a matched block holds something else"
        before = self.pool.available
        table = self.pool.acquire(shared, len(keys) - len(shared) + extra, spare=spare)
        if table is None:
            assert self.pool.available == before
            return
        assert self.pool.available >= spare
        others = {block for held, _ in self.tables for block in held}
        assert not others & set(table[len(shared) :]), "a new block belongs to somebody"
        for index, block in enumerate(table[: len(keys)]):
            self.memory[block] = keys[: index + 1]
        for block in table[len(keys) :]:
            self.memory.pop(block, None)
        self.tables.append((table, keys))

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        table, keys = data.draw(st.sampled_from(self.tables))
        for block, key in zip(table, keys, strict=False):
            self.pool.publish(block, key)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.tables) - 1))
        self.pool.release(self.tables.pop(index)[0])

    @invariant()
    def books_agree(self) -> None:
        if hasattr(self, "pool"):
            self.pool.check_integrity()
            assert self.pool.held == len({block for table, _ in self.tables for block in table})


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
