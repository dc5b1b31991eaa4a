"""What every tier of the response cache offers, whatever it is kept in."""

from __future__ import annotations

from typing import NamedTuple, Protocol

Key = bytes  # compared in full: two requests never share an answer because their hashes are equal


class Found(NamedTuple):
    value: bytes
    ttl: float | None  # seconds that it may still be served; None: until it has to make room


class Store(Protocol):
    """Keys and values are bytes. An entry that has expired is not there any more."""

    def get(self, key: Key) -> Found | None: ...

    def exists(self, key: Key) -> bool:
        """Looks without using: the entry grows no younger."""
        ...

    def set(self, key: Key, value: bytes, *, ttl: float | None = None) -> bool:
        """Keep ``value`` for ``ttl`` seconds (above 0; None: until it has to make room).

        Returns False, and drops what was there, if it alone is too large for the store.
        """
        ...

    def delete(self, key: Key) -> bool:
        """Returns whether it was there."""
        ...

    def clear(self, prefix: bytes = b"") -> int:
        """Drop every entry whose key begins with ``prefix``. Returns how many there were, expired ones included."""
        ...


def check_ttl(ttl: float | None) -> None:
    """Raises :class:`ValueError` for a span that is none."""
    if ttl is not None and not ttl > 0:
        raise ValueError(f"ttl must be above 0 seconds, not {ttl}")
