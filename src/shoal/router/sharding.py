"""Which shard of a model a key belongs to: the same in every process, on every machine and in every version.

A key is text or a number; a number's text stands for it, so that the integer 42 in a tensor and ``42`` in a header are
the same key. Hashes are the first 8 bytes of BLAKE2b, little-endian.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final, TypeAlias, TypeVar

from shoal.config import ShardConfig, parse_number
from shoal.errors import InvalidRequest

Key: TypeAlias = str | int | float
ShardOf: TypeAlias = Callable[[Key], int]  # raises InvalidRequest for a key that has no place
S = TypeVar("S", bound=Hashable)

SLOTS: Final = 4096  # equal parts of the circle of hashes, dealt out to the shards
_POINTS: Final = 64  # of one shard on the circle
_BALANCE: Final = 1.25  # a shard has at most so many times its even share of the slots


@lru_cache(maxsize=256)
def sharding(config: ShardConfig) -> ShardOf:
    """How a model's keys find their shard."""
    if config.by == "range":
        return _by_range(config)
    if config.by == "consistent_hash":
        slots = deal_slots(range(config.count))
        return lambda key: slots[hash_of(key) * SLOTS >> 64]
    return lambda key: jump(hash_of(key), config.count)


def hash_of(key: Key) -> int:
    """64 bits of a key's text."""
    return int.from_bytes(blake2b(str(key).encode(errors="surrogateescape"), digest_size=8).digest(), "little")


def jump(hashed: int, shards: int) -> int:
    """Jump consistent hash (Lamping and Veach 2014): with one shard more, only that one's share moves, all of it to the
    new shard. Shards come and go at the end alone."""
    shard, following = -1, 0
    while following < shards:
        shard = following
        hashed = (hashed * 2862933555777941757 + 1) & 0xFFFF_FFFF_FFFF_FFFF
        following = int((shard + 1) * ((1 << 31) / ((hashed >> 33) + 1)))
    return shard


def deal_slots(shards: Sequence[S]) -> list[S]:
    """Who owns each of the :data:`SLOTS` equal parts of the circle: consistent hashing with bounded loads (Mirrokni,
    Thorup and Zadimoghaddam 2016). A slot goes to the first shard behind it on the circle that is not full yet.

    So no shard has more than its bound, and when one comes or goes, little more than its own share moves.
    """
    circle = sorted(
        (hash_of(f"shard {shard} point {point}"), place)
        for place, shard in enumerate(shards)
        for point in range(_POINTS)
    )
    room = [math.ceil(_BALANCE * SLOTS / len(shards))] * len(shards)
    owners = []
    for slot in range(SLOTS):
        at = bisect_right(circle, (hash_of(f"slot {slot}"), -1))
        while not room[owner := circle[at % len(circle)][1]]:
            at += 1
        room[owner] -= 1
        owners.append(shards[owner])
    return owners


def _by_range(config: ShardConfig) -> ShardOf:
    """Shard 0 has what lies below the first bound, the next what lies from there on."""
    numbers = config.numeric_bounds
    if numbers is None:
        return lambda key: bisect_right(config.bounds, str(key))
    return lambda key: bisect_right(numbers, _number(key))


def _number(key: Key) -> float:
    try:
        return parse_number(str(key))
    except ValueError:
        raise InvalidRequest(
            f"the key '{str(key)[:64]}' must be a number: this model's shards are ranges of numbers", param="key"
        ) from None
