"""What became of the requests of one round, beside the same requests in peace."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from faults.load import Stream
from faults.spans import Pause

SHIFT = 16  # tokens that a loss or a repetition is looked for


@dataclass
class Verdict:
    """Of one fault, over all its rounds. Times are in seconds."""

    fault: str
    rounds: int = 0
    sent: int = 0
    moved: int = 0  # times that another worker went on or began anew
    ended: Counter[str] = field(default_factory=Counter)  # finished, hung, or the code of an error
    reasons: Counter[str] = field(default_factory=Counter)  # of errors
    answers: Counter[str] = field(default_factory=Counter)  # identical, lost, repeated, changed, ended twice
    stalls: list[float] = field(default_factory=list)
    pauses: list[Pause] = field(default_factory=list)  # of answers that were taken up in their middle
    others: list[float] = field(default_factory=list)  # the longest pauses of those that were not
    again: list[float] = field(default_factory=list)  # seconds that computing them again takes in peace
    beyond: list[float] = field(default_factory=list)  # what their pauses were longer than that
    noticed: list[float | None] = field(default_factory=list)
    signs: Counter[str] = field(default_factory=Counter)  # by what it was noticed
    left: Counter[str] = field(default_factory=Counter)
    skipped: str = ""  # why it was not tried

    def add(self, streams: Sequence[Stream], peace: Mapping[int, Stream]) -> None:
        self.rounds += 1
        self.sent += len(streams)
        for stream in streams:
            self.ended[stream.end] += 1
            self.reasons += Counter([stream.why] if stream.why else [])
            self.answers[compare(stream, peace[stream.question])] += 1
            self.stalls.append(stream.stall)

    def notice(self, seen: tuple[float, str] | None) -> None:
        self.noticed.append(None if seen is None else seen[0])
        self.signs += Counter([] if seen is None else [seen[1]])

    @property
    def failed(self) -> int:
        return self.sent - self.ended["finished"] - self.ended["hung"]

    @property
    def wrong(self) -> int:
        return self.sent - self.answers["identical"] - self.answers["cut short"]

    def stall(self, percent: int) -> float:
        """A quantile over all requests, each with its longest pause."""
        return quantile(self.stalls, percent)

    @property
    def slowest_notice(self) -> float | None:
        seen = [at for at in self.noticed if at is not None]
        return max(seen) if seen else None


def quantile(values: Sequence[float], percent: int) -> float:
    if len(values) < 2:
        return sum(values)
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def compare(got: Stream, expected: Stream) -> str:
    """``identical``; ``cut short``: right as far as it went, and its client was told that it failed."""
    if got.end == "finished" and got.ends != 1:
        return "ended twice"
    if got.end == "finished" and (got.tokens, got.text) == (expected.tokens, expected.text):
        return "identical"
    if got.end != "finished" and got.tokens == expected.tokens[: len(got.tokens)]:
        return "cut short"
    return _difference(got.tokens, expected.tokens)


def _difference(got: Sequence[int], expected: Sequence[int]) -> str:
    pairs = zip(got, expected, strict=False)
    first = next((index for index, (one, other) in enumerate(pairs) if one != other), min(len(got), len(expected)))
    for shift in range(1, SHIFT):
        if got[first:] == expected[first + shift :]:
            return "lost"
        if got[first + shift :] == expected[first:]:
            return "repeated"
    return "changed"
