"""Dynamic batching: rows of different requests share a run of the model."""

from shoal.batcher.batcher import Batcher
from shoal.batcher.policy import BatchLimits, Release

__all__ = ["BatchLimits", "Batcher", "Release"]
