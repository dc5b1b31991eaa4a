"""From the name in a request to the worker that runs it."""

from shoal.router.candidates import Candidate, Fleet
from shoal.router.route import Reason, RoutingDecision, route

__all__ = ["Candidate", "Fleet", "Reason", "RoutingDecision", "route"]
