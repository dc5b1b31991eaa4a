"""How many bytes of request bodies are held at a time, over all connections."""

from __future__ import annotations

from shoal.errors import Overloaded

RETRY_AFTER = 1.0  # seconds: most bodies are held for less


class BodyMemory:
    def __init__(self, size: int) -> None:
        self._size = size
        self.held = 0

    def take(self, size: int) -> None:
        """Raises :class:`Overloaded`; nothing is taken then."""
        if self.held + size > self._size:
            raise Overloaded(
                f"the request bodies in progress together may have {self._size} bytes", retry_after=RETRY_AFTER
            )
        self.held += size

    def give_back(self, size: int) -> None:
        self.held -= size
