"""Who is let in next among those that wait: by standing, and fair between requests of one, whatever number of
generations each has.

Among those that stand as high (:mod:`~shoal.worker.generation.preemption`) the parked come first, and with them answers
that were begun elsewhere: their clients read already. Then the group that holds the fewest places, running or parked;
among groups that hold as many, the one whose first arrived first. Inside a group the order is that of arrival. A group
is what one request asked for; it ages while it is given no place. A sequence without a group is alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator

from shoal.worker.generation.preemption import TURN, class_of, standing
from shoal.worker.generation.sequence import TokenSequence


class Waiting:
    def __init__(self) -> None:
        self._parked: dict[TokenSequence, None] = {}  # and those that ran elsewhere
        self._groups: dict[Hashable, dict[TokenSequence, None]] = {}  # in order, and found at once
        self._classes: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._parked) + sum(map(len, self._groups.values()))

    def __iter__(self) -> Iterator[TokenSequence]:
        yield from self._parked
        for group in self._groups.values():
            yield from group

    @property
    def highest_class(self) -> float:
        return max(self._classes, default=-math.inf)

    @property
    def parked(self) -> int:
        return len(self._parked)

    def append(self, sequence: TokenSequence) -> None:
        sequence.since = sequence.arrived
        self._classes[class_of(sequence)] += 1
        place = self._parked if sequence.output else self._groups.setdefault(_group(sequence), {})
        place[sequence] = None

    def park(self, sequence: TokenSequence, at: float) -> None:
        """It ran, and is to go on before others that stand as high."""
        sequence.since = at
        self._classes[class_of(sequence)] += 1
        self._parked[sequence] = None

    def take(self, sequence: TokenSequence, at: float) -> None:
        """It runs from now on, and keeps the standing that it has."""
        sequence.standing = self.standing(sequence, at)
        sequence.waited += at - sequence.since
        sequence.let_in = at
        self.remove(sequence)
        for follower in self._groups.get(_group(sequence), ()):
            follower.since = max(follower.since, at)
            break

    def remove(self, sequence: TokenSequence) -> None:
        """Does nothing if it does not wait."""
        group = self._groups.get(_group(sequence), {})
        if sequence in group:
            del group[sequence]
            if not group:
                del self._groups[_group(sequence)]
        elif sequence in self._parked:
            del self._parked[sequence]
        else:
            return
        self._classes[class_of(sequence)] -= 1
        self._classes += Counter()  # forgets those of which there is none

    def first(self, running: Iterable[TokenSequence], most: int, at: float) -> TokenSequence | None:
        """Who comes next, where a group may hold ``most`` places; None if nobody may."""
        held = Counter(map(_group, [*running, *self._parked]))
        heads = [next(iter(group)) for key, group in self._groups.items() if held[key] < most]

        def place(sequence: TokenSequence) -> tuple[int, int, float]:
            places = -1 if sequence in self._parked else held[_group(sequence)]
            return -self.standing(sequence, at), places, sequence.arrived

        return min([*self._parked, *heads], key=place, default=None)

    def due(self, at: float) -> list[TokenSequence]:
        """Those in the middle of an answer that have waited for a turn's time, the longest first."""
        due = [sequence for sequence in self._parked if at - sequence.since >= TURN]
        return sorted(due, key=lambda each: each.since)

    def holding(self, at: float) -> list[TokenSequence]:
        """The parked that still have blocks, the one that comes back last first."""
        holding = [sequence for sequence in self._parked if sequence.blocks]
        return sorted(holding, key=lambda each: (self.standing(each, at), -each.arrived))

    def standing(self, sequence: TokenSequence, at: float) -> int:
        return standing(sequence, sequence.waited + at - sequence.since)


def _group(sequence: TokenSequence) -> Hashable:
    return sequence.group or sequence
