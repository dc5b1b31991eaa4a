"""Which worker of one machine loads which shard of which model."""

from __future__ import annotations

from collections.abc import Mapping


def deal_shards(models: Mapping[str, int | None], workers: int) -> list[tuple[str, ...]]:
    """What each worker shall load, as ``NAME[@VERSION][#SHARD]``; by model the number of its shards, None: it has none.

    Models without shards are everywhere. Of the others the first worker gets shard 0, the next shard 1 and so on, and
    the first again after the last, until every shard is somewhere; with workers left over, shard 0 follows the last.
    """
    dealt: list[list[str]] = [[] for _ in range(workers)]
    for name, shards in models.items():
        for place in range(max(workers, shards or 0)):
            dealt[place % workers].append(name if shards is None else f"{name}#{place % shards}")
    return [tuple(parts) for parts in dealt]
