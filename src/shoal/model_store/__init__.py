"""The built-in models: what there is, where it comes from, and having it on this machine."""

from shoal.model_store.catalog import CATALOG, BuiltIn, find
from shoal.model_store.progress import Progress, TerminalProgress, no_progress
from shoal.model_store.store import located, pull, pull_source

__all__ = [
    "CATALOG",
    "BuiltIn",
    "Progress",
    "TerminalProgress",
    "find",
    "located",
    "no_progress",
    "pull",
    "pull_source",
]
