"""What a store of records offers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Store(Protocol):
    """Keys with a value each. Owned by one coordinator, so nobody else changes them."""

    def load(self) -> Mapping[str, bytes]:
        """All of them, in the order they were first written."""
        ...

    def save(self, changes: Mapping[str, bytes | None]) -> None:
        """Write all or nothing; None deletes. On disk when it returns. Raises :class:`~shoal.errors.ShoalError`."""
        ...

    def close(self) -> None: ...


class MemoryStore:
    """Forgets everything with its process."""

    def __init__(self) -> None:
        self._records: dict[str, bytes] = {}

    def load(self) -> Mapping[str, bytes]:
        return dict(self._records)

    def save(self, changes: Mapping[str, bytes | None]) -> None:
        for key, value in changes.items():
            if value is None:
                self._records.pop(key, None)
            else:
                self._records[key] = value

    def close(self) -> None:
        return None
