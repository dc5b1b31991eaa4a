"""What is set for each model."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

import msgspec

from shoal.config.limits import LimitConfig
from shoal.config.values import Count, Seconds, Section


class TensorConfig(Section, frozen=True):
    name: str
    dtype: str
    shape: tuple[int, ...]


class ResourceConfig(Section, frozen=True):
    """What one replica needs; 0: not known."""

    cpus: Annotated[int, msgspec.Meta(ge=0)] = 0
    memory_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0


class BatchConfig(Section, frozen=True):
    max_rows: Count = 32  # of one run
    max_wait: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.005  # seconds that a request waits for company
    max_queue_rows: Count = 4096  # waiting; beyond: 429. Two of the largest requests for embeddings
    target_latency: Seconds | None = None  # seconds: fit the cost of a run and choose the size that meets this
    buckets: tuple[
        Count, ...
    ] = ()  # a free dimension is padded up to the next of these, so that requests can share a run


class ResponseCacheConfig(Section, frozen=True):
    ttl: Seconds = 300.0
    any_request: bool = False  # also those whose answer is drawn at random


class HedgeConfig(Section, frozen=True):
    """A second worker is asked for an answer in one piece that the first one is slow with."""

    quantile: Annotated[float, msgspec.Meta(ge=0.5, lt=1)] = 0.95  # of the last waits: after so long
    share: Annotated[float, msgspec.Meta(gt=0, le=0.5)] = 0.05  # of the requests, at most


class ShardConfig(Section, frozen=True):
    count: Annotated[int, msgspec.Meta(ge=1, le=256)]
    by: Literal["hash", "consistent_hash", "range"] = "hash"
    key: str = ""  # the input whose rows choose their shard; empty: the request's key does
    bounds: tuple[str, ...] = ()  # for range: the first key of every shard but the first, in order

    def __post_init__(self) -> None:
        if self.by != "range" and self.bounds:
            raise ValueError(f"bounds are for shards by range, not by {self.by}")
        if self.by == "range" and len(self.bounds) != self.count - 1:
            raise ValueError(f"{self.count} ranges need {self.count - 1} bounds, not {len(self.bounds)}")
        numbers = self.numeric_bounds
        order: Sequence[Any] = self.bounds if numbers is None else numbers
        if any(bound >= following for bound, following in pairwise(order)):
            raise ValueError(f"bounds must ascend as {'text' if numbers is None else 'numbers'}")

    @property
    def numeric_bounds(self) -> tuple[float, ...] | None:
        """The bounds if all of them are numbers: then keys are compared as such, else as text."""
        try:
            return tuple(map(parse_number, self.bounds)) or None
        except ValueError:
            return None


def parse_number(text: str) -> float:
    """Whole numbers keep all their digits. Raises :class:`ValueError`, also for what cannot be ordered."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if math.isnan(number):
            raise
        return number


#: A step's name, or one name with its options.
StepConfig = str | dict[str, dict[str, Any]]

Balancing = Literal[
    "round_robin", "least_connections", "random", "least_latency", "power_of_two", "weighted_round_robin"
]


#: What a version is, rather than how it is served: another version has its own.
_OWN = frozenset({"uri", "aliases", "inputs", "outputs", "batchable", "quantized", "resources"})


class ModelConfig(Section, frozen=True):
    """One version of a model. The name it is under is ``NAME``, or ``NAME@VERSION`` where there are several."""

    uri: str = ""  # empty: only the workers that have it know
    aliases: tuple[str, ...] = ()
    inputs: tuple[TensorConfig, ...] = ()  # empty: what the model says itself
    outputs: tuple[TensorConfig, ...] = ()
    batchable: bool | None = None  # None: what the model says itself
    quantized: bool = False
    resources: ResourceConfig = ResourceConfig()
    preproc: tuple[StepConfig, ...] = ()
    postproc: tuple[StepConfig, ...] = ()
    step_timeout: Seconds = 30.0  # for the steps of one request before inference, and again for those after it
    batching: BatchConfig = BatchConfig()
    cache: ResponseCacheConfig | None = None  # None: off
    coalesce: bool = False  # identical requests in flight run once
    balancing: Balancing = "least_connections"
    shards: ShardConfig | None = None
    hedge: HedgeConfig | None = None  # None: off
    fallback: tuple[str, ...] = ()  # models to ask, in order, when this one is ready nowhere
    timeout: Seconds | None = None  # for a request without a deadline; None: the coordinator's
    limits: LimitConfig = LimitConfig()  # of all its requests together


def served_as(earlier: ModelConfig, settings: ModelConfig, given: Collection[str]) -> ModelConfig:
    """A new version's settings: where none is ``given``, it is served as the ``earlier`` version is."""
    fields = {field.name for field in msgspec.structs.fields(ModelConfig)} - _OWN - set(given)
    return msgspec.structs.replace(settings, **{name: getattr(earlier, name) for name in fields})
