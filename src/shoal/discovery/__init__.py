"""Where what a deployment must not forget is kept, and what coordinators share."""

from shoal.discovery.base import MemoryStore, Store
from shoal.discovery.embedded import EmbeddedStore, open_store

__all__ = ["EmbeddedStore", "MemoryStore", "Store", "open_store"]
