"""Continuous batching over any language engine: scheduling, KV blocks, sampling, grammars, text."""

from shoal.worker.generation.loop import GenerationLoop
from shoal.worker.generation.scheduler import Limits

__all__ = ["GenerationLoop", "Limits"]
