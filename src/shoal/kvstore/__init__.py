"""Request to response: what was computed once need not be computed again."""

from shoal.kvstore.memory import MemoryStore, Stats
from shoal.kvstore.sqlite import SqliteStore
from shoal.kvstore.store import Found, Key, Store

__all__ = ["Found", "Key", "MemoryStore", "SqliteStore", "Stats", "Store"]
