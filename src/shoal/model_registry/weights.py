"""Which of an alias's models a request gets."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

Weights = Mapping[str, int]  # of what an alias points at, NAME or NAME@VERSION


def draw(targets: Weights, alias: str, key: str) -> str:
    """The target whose share of the circle a hash of the key falls into."""
    if len(targets) == 1:
        return next(iter(targets))
    digest = blake2b(f"{alias}\0{key}".encode(errors="replace"), digest_size=8).digest()
    point = int.from_bytes(digest, "little") * sum(targets.values()) >> 64
    for target, weight in targets.items():
        point -= weight
        if point < 0:
            return target
    raise AssertionError("the point lies below the sum of the weights")
