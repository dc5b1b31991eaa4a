"""Where what a deployment must not forget is kept, and what coordinators share."""

from shoal.discovery.base import Store
from shoal.discovery.embedded import EmbeddedStore, open_store

__all__ = ["EmbeddedStore", "Store", "open_store"]
