"""How long a step may take before its engine counts as hung: by what steps of its size took before. No clock in here.

A step that is only held up is not hung. Time in which the process itself did not run does not count (it was stopped, or
the machine was), nor does time in which it reads its memory in again from a disk. And a step of a size that is new may
have to be compiled first: until some like it have been seen, only the longest limit holds.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

MULTIPLE = 30  # of the longest step of a size
FLOOR = 5.0  # seconds that any step may take
KNOWN = 3  # steps of a size, until it is known how long they take
FORGOTTEN = 0.01  # of the longest, with each that is shorter
LOOK = 0.25  # seconds between two looks at a step
OWN_PAUSE = 0.25  # seconds that a look may be late, until it shows that the process did not run


@dataclass(slots=True)
class _Size:
    seen: int = 0
    longest: float = 0.0  # seconds, of late


class StepLimit:
    """``most``: seconds that no step may take. Sizes that differ by less than a factor of two are one."""

    def __init__(self, most: float) -> None:
        self._most = most
        self._sizes: defaultdict[int, _Size] = defaultdict(_Size)

    def observe(self, tokens: int, seconds: float) -> None:
        """A step of so many tokens took so long."""
        size = self._sizes[tokens.bit_length()]
        size.seen += 1
        size.longest = max(seconds, size.longest * (1 - FORGOTTEN))

    def seconds(self, tokens: int) -> float:
        size = self._sizes[tokens.bit_length()]
        return min(self._most, max(FLOOR, MULTIPLE * size.longest)) if size.seen >= KNOWN else self._most


class StepWatch:
    """Of one step, that began at ``began`` and may take ``limit`` seconds. Look each :data:`LOOK` seconds at most."""

    def __init__(self, limit: float, began: float, reads: int) -> None:
        self.limit = limit
        self._left = limit
        self._looked = began
        self._reads = reads

    @property
    def pause(self) -> float:
        """Seconds until the next look."""
        return min(LOOK, self._left)

    def look(self, at: float, reads: int) -> bool:
        """Is it hung? ``reads``: pages of memory that this process has had to read from a disk, ever."""
        elapsed, due = at - self._looked, self.pause
        if reads == self._reads:
            self._left -= elapsed if elapsed <= due + OWN_PAUSE else 0.0
        self._looked, self._reads = at, reads
        return self._left <= 0.0
