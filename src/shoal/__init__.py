"""Shoal: lightweight, distributed AI inference, one package from a laptop to a fleet.

What is exported here is what other programs use; everything else is for Shoal itself.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.client import AsyncClient, Client, Completion
    from shoal.errors import ShoalError
    from shoal.messages import Chunk
    from shoal.types import Grammar, Sampling

__all__ = ["AsyncClient", "Chunk", "Client", "Completion", "Grammar", "Sampling", "ShoalError"]
__version__ = "0.1.0"

# Loaded when first asked for: a child process that needs one room should not import the house.
_HOMES = {"AsyncClient": "client", "Client": "client", "Completion": "client", "ShoalError": "errors"}
_HOMES |= {"Chunk": "messages", "Grammar": "types", "Sampling": "types"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"shoal.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'shoal' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
