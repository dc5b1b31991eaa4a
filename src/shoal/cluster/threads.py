"""Threads, spin counts and cores of the engines on one machine, decided in one place for all of them.

Two engines that each start as many threads as there are cores, and spin while they wait for one another, run at an
eighth of their speed together. So every worker gets cores of its own, and every engine as many threads as its worker
has cores. Whatever must still share cores (the engines of one worker's several models; more workers than cores; on a
small machine the event loops of coordinator and workers, always) spins so briefly that the other soon gets its turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

# Turns of libgomp's wait loop. Its own default, 300,000, is the collapse: two engines with two threads each on two
# cores made 23 tokens/s together. With 3000 they made 104 and a lone engine lost nothing; with 300 they made 162, and
# a lone one lost half of its speed at batch 1.
_SPIN_ALONE: Final = 3000
_SPIN_SHARED: Final = 300


@dataclass(frozen=True, slots=True)
class CoreGrant:
    """What one worker may use of the machine."""

    cpus: tuple[int, ...]  # to be pinned to
    threads: int  # of each engine
    shared: bool = False  # other engines compute on these cores


def plan_cores(cpus: Sequence[int], workers: int) -> list[CoreGrant]:
    """Deal the cores this process may use out to its workers, neighbours together, as evenly as it goes.

    With more workers than cores, they take one core each in turn. Raises :class:`ValueError` without either.
    """
    if not cpus or workers < 1:
        raise ValueError(f"there must be cores and workers to plan for, not {len(cpus)} and {workers}")
    if workers > len(cpus):
        return [CoreGrant((cpus[index % len(cpus)],), 1, shared=True) for index in range(workers)]
    starts = [index * len(cpus) // workers for index in range(workers + 1)]
    parts = [tuple(cpus[start:end]) for start, end in pairwise(starts)]
    return [CoreGrant(part, len(part)) for part in parts]


def share_grant(grant: CoreGrant, engines: int) -> CoreGrant:
    """What each of a worker's engines gets: all of its worker's cores, as mostly one of them computes at a time."""
    return replace(grant, shared=grant.shared or engines > 1)


def engine_environment(grant: CoreGrant) -> dict[str, str]:
    """Variables for an engine's process. The libraries read them when they are loaded, so never later.

    ``OMP_WAIT_POLICY`` is left alone: ``passive`` costs a lone engine two thirds of its speed at batch 1.
    """
    threads = str(grant.threads)
    return {
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "GOMP_SPINCOUNT": str(_SPIN_SHARED if grant.shared else _SPIN_ALONE),
        # An engine that aborts would first start a debugger to print where.
        "GGML_NO_BACKTRACE": "1",
    }


def step_environment() -> dict[str, str]:
    """Variables for a process of steps before or after inference: one thread, as several such processes run beside an
    engine that has threads for all cores."""
    return engine_environment(CoreGrant((), 1, shared=True)) | {"RAYON_NUM_THREADS": "1"}
