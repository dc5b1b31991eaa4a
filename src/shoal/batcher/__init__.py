"""Dynamic batching: rows of different requests share a run of the model."""

from shoal.batcher.batcher import Batcher
from shoal.batcher.observer import NO_OBSERVER, BatchObserver
from shoal.batcher.padding import Padding
from shoal.batcher.policy import BatchLimits, Release

__all__ = ["NO_OBSERVER", "BatchLimits", "BatchObserver", "Batcher", "Padding", "Release"]
