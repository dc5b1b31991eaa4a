"""A tensor answer in parts that is computed anew, as it cannot be asked for from the middle: what came of it before is
left out, if it comes out the same.

Where it does not, its two halves do not belong together. That shows in a digest of the parts, so nothing is kept of
them, and no model has to say whether it always computes the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import Final

from shoal.errors import WorkerLost
from shoal.messages import Inferred
from shoal.types import Array

_SIZE: Final = 16  # bytes of a digest


class PartsAgain:
    """Of one answer, whoever computes it."""

    def __init__(self) -> None:
        self.differs = False  # it came out otherwise: there is no way to go on
        self._parts = 0  # that are known
        self._all = blake2b(digest_size=_SIZE)  # of these
        self._came = 0  # of them, again
        self._again = blake2b(digest_size=_SIZE)

    def begin(self) -> None:
        """It is asked for from its beginning."""
        self._came, self._again = 0, blake2b(digest_size=_SIZE)

    def is_known(self, part: Inferred) -> bool:
        """Did this part come before? Raises :class:`WorkerLost` when what comes is not what came."""
        if self._came >= self._parts:
            return False
        self._came += 1
        self._again.update(_told(part))
        is_all = self._came == self._parts
        self.differs = part.last or (is_all and self._again.digest() != self._all.digest())
        if self.differs:
            raise WorkerLost("the answer broke off, and computed again it begins otherwise")
        return True

    def add(self, part: Inferred) -> None:
        """This part is new."""
        if not part.last:  # behind the last one there is nothing to ask for
            self._parts, self._came = self._parts + 1, self._came + 1
            self._all.update(_told(part))


def _told(part: Inferred) -> bytes:
    return b"".join(piece for name in sorted(part.outputs) for piece in _of_array(name, part.outputs[name]))


def _of_array(name: str, array: Array) -> Iterator[bytes]:
    content = repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
    yield repr((name, array.dtype.str, array.shape, len(content))).encode()
    yield content
