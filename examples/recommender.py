"""A model of one's own: a class with `run`. Each shard of it knows some of the users.

shoal serve --config examples/demo_config.yaml
shoal infer recommender user='[["ada"], ["alan"]]'
"""

from __future__ import annotations

import zlib

import numpy as np

from shoal.types import Tensors, TensorSpec

ITEMS = 8


class Recommender:
    """Scores of eight items for each user. ``shard``: the part of the users that this copy holds."""

    inputs = (TensorSpec("user", "BYTES", (-1, 1)),)
    outputs = (TensorSpec("scores", "FP32", (-1, ITEMS)), TensorSpec("shard", "INT64", (-1, 1)))

    def __init__(self, shard: int | None = None) -> None:
        self._shard = shard or 0

    def run(self, inputs: Tensors) -> Tensors:
        users = [user for (user,) in inputs["user"]]
        scores = np.stack([np.random.default_rng(zlib.crc32(user)).random(ITEMS, np.float32) for user in users])
        return {"scores": scores, "shard": np.full((len(users), 1), self._shard, np.int64)}
