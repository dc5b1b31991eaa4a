"""Request to response: what was computed once need not be computed again."""

from shoal.kvstore.memory import Key, MemoryStore, Stats

__all__ = ["Key", "MemoryStore", "Stats"]
