"""Steps before inference: named arrays to named arrays, each alone and without shared state.

A step is made once, from the folder of the model it belongs to, and may run anywhere: here, in another thread,
in a process of its own. What a later step needs travels with the arrays.
"""

from shoal.preproc.base import Step, StepFactory
from shoal.preproc.tokenize import Tokenize

STEPS: dict[str, StepFactory] = {"tokenize": Tokenize.from_folder}

__all__ = ["STEPS", "Step", "StepFactory", "Tokenize"]
