"""Which replica takes a request, and which are better left alone for a while."""

from shoal.load_balancer.health import Attempt, Health, HealthLimits, Outcome
from shoal.load_balancer.policies import POLICIES, LeastConnections, Policy, Replica, eligible

__all__ = [
    "POLICIES",
    "Attempt",
    "Health",
    "HealthLimits",
    "LeastConnections",
    "Outcome",
    "Policy",
    "Replica",
    "eligible",
]
