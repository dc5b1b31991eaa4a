"""Steps after inference. They are what :mod:`shoal.preproc` says of steps."""

from shoal.postproc.mean_pool import MeanPool
from shoal.preproc.base import StepFactory

STEPS: dict[str, StepFactory] = {"mean_pool": MeanPool.from_folder}

__all__ = ["STEPS", "MeanPool"]
