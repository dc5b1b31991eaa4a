from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from shoal.coordinator.replay import Reader, Replay

LIMIT = 100


def read(replay: Replay[str], reader: Reader) -> str:
    text = ""
    while (part := replay.next(reader)) is not None:
        text += part
    return text


def test_each_reader_reads_everything_from_the_beginning_at_its_own_pace() -> None:
    replay = Replay[str](LIMIT)
    early = replay.join()
    replay.add("a", 1)
    assert (replay.next(early), replay.next(early)) == ("a", None)
    replay.add("b", 1)
    late = replay.join()
    assert (read(replay, late), read(replay, early)) == ("ab", "b")
    assert replay.whole() == ["a", "b"]


def test_beyond_the_limit_nobody_joins_and_what_all_have_read_is_let_go() -> None:
    replay = Replay[str](LIMIT)
    fast, slow = replay.join(), replay.join()
    for part in "abc":
        replay.add(part, 40)
    assert not replay.is_whole
    with pytest.raises(AssertionError, match="the beginning"):
        replay.join()
    assert (read(replay, fast), replay.bytes_held) == ("abc", 120)
    assert (replay.next(slow), replay.bytes_held) == ("a", 80)
    replay.leave(slow)
    assert replay.bytes_held == 0


def test_a_reader_that_falls_behind_the_others_by_the_limit_is_given_up() -> None:
    replay = Replay[str](LIMIT)
    fast, slow = replay.join(), replay.join()
    for _ in range(4):
        assert not replay.must_wait()
        replay.add("x", 40)
        read(replay, fast)
    assert slow.given_up
    assert replay.next(slow) is None
    assert (replay.readers, replay.bytes_held) == ({fast}, 0)


def test_when_every_reader_is_late_the_run_waits_and_nobody_is_given_up() -> None:
    replay = Replay[str](LIMIT)
    readers = [replay.join(), replay.join()]
    for _ in range(3):
        replay.add("x", 40)
    assert replay.must_wait()
    replay.next(readers[0])
    assert not replay.must_wait()
    assert not any(reader.given_up for reader in readers)


def test_a_run_that_nobody_reads_does_not_wait() -> None:
    replay = Replay[str](LIMIT)
    replay.add("x", 1000)
    assert not replay.must_wait()
    assert replay.bytes_held == 0


def test_one_part_that_is_larger_than_the_limit_reaches_every_reader() -> None:
    replay = Replay[str](LIMIT)
    readers = [replay.join(), replay.join()]
    replay.add("large", 10 * LIMIT)
    assert [read(replay, reader) for reader in readers] == ["large", "large"]


class Readers(RuleBasedStateMachine):
    """Every reader reads a beginning of the answer, in order; what is held stays within the limit and one part."""

    reader = Bundle("readers")

    def __init__(self) -> None:
        super().__init__()
        self.replay = Replay[int](LIMIT)
        self.count = 0
        self.largest = 0
        self.seen: dict[Reader, int] = {}

    @rule(target=reader)
    def join(self) -> Reader:
        if self.replay.is_whole:
            made = self.replay.join()
            self.seen[made] = 0
            return made
        return Reader()

    @rule(size=st.integers(1, 60))
    def add(self, size: int) -> None:
        if not self.replay.must_wait():
            self.replay.add(self.count, size)
            self.count += 1
            self.largest = max(self.largest, size)

    @rule(reader=reader)
    def read(self, reader: Reader) -> None:
        if reader in self.replay.readers and (part := self.replay.next(reader)) is not None:
            assert part == self.seen[reader]
            self.seen[reader] += 1

    @rule(reader=reader)
    def leave(self, reader: Reader) -> None:
        self.replay.leave(reader)

    @invariant()
    def holds(self) -> None:
        self.replay.check_integrity()
        assert self.replay.bytes_held <= LIMIT + self.largest
        if self.replay.is_whole:
            assert self.replay.whole() == list(range(self.count))


TestReaders = Readers.TestCase
TestReaders.settings = settings(max_examples=60, stateful_step_count=40)
