"""How many requests are let in, whose, and in which order they run."""

from shoal.coordinator.admission.door import Admission, Place
from shoal.coordinator.admission.drain import RETRY_AFTER
from shoal.coordinator.admission.shares import Shares
from shoal.coordinator.admission.turn import Turn
from shoal.coordinator.admission.turns import Turns

__all__ = ["RETRY_AFTER", "Admission", "Place", "Shares", "Turn", "Turns"]
