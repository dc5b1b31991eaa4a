"""Who is let in next among those that wait: fair between requests, whatever number of generations each has.

First those that were sent back, in their order: they ran already. Then the group that holds the fewest places; among
groups that hold as many, the one whose first has the lowest rank of priority and age, so that nobody starves. Inside
a group the order is that of arrival. A group is what one request asked for; a sequence without one is alone.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterable, Iterator

from shoal.batcher.policy import rank
from shoal.worker.generation.sequence import TokenSequence


class Waiting:
    def __init__(self) -> None:
        self._sent_back: deque[TokenSequence] = deque()
        self._groups: dict[Hashable, dict[TokenSequence, None]] = {}  # in order, and found at once

    def __len__(self) -> int:
        return len(self._sent_back) + sum(map(len, self._groups.values()))

    def __iter__(self) -> Iterator[TokenSequence]:
        yield from self._sent_back
        for group in self._groups.values():
            yield from group

    def append(self, sequence: TokenSequence) -> None:
        self._groups.setdefault(_group(sequence), {})[sequence] = None

    def send_back(self, sequence: TokenSequence) -> None:
        """It ran, and is the first to run again."""
        self._sent_back.appendleft(sequence)

    def remove(self, sequence: TokenSequence) -> None:
        """Does nothing if it does not wait."""
        group = self._groups.get(_group(sequence), {})
        if sequence in group:
            del group[sequence]
            if not group:
                del self._groups[_group(sequence)]
        elif sequence in self._sent_back:
            self._sent_back.remove(sequence)

    def first(self, running: Iterable[TokenSequence], most: int) -> TokenSequence | None:
        """Who comes next, where a group may hold ``most`` places; None if nobody may."""
        if self._sent_back:
            return self._sent_back[0]
        held = Counter(map(_group, running))
        heads = [next(iter(group)) for key, group in self._groups.items() if held[key] < most]
        return min(heads, key=lambda head: (held[_group(head)], rank(head.priority, head.arrived)), default=None)


def _group(sequence: TokenSequence) -> Hashable:
    return sequence.group or sequence
