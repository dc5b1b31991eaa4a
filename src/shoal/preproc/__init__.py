"""Steps before inference: named arrays to named arrays, each alone and without shared state.

A step is made once, from its options and the folder of the model it belongs to, and may run anywhere: where the engine
does, or in a process of its own (:mod:`shoal.preproc.pool`). What a later step needs travels with the arrays.
"""

from shoal.preproc.base import Options, Step
from shoal.preproc.chain import Chain, pick
from shoal.preproc.names import BUILT_IN, make_step, read_step

__all__ = ["BUILT_IN", "Chain", "Options", "Step", "make_step", "pick", "read_step"]
