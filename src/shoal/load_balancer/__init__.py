"""Which replica takes a request, and which are better left alone for a while."""

from shoal.load_balancer.budget import RetryBudget
from shoal.load_balancer.health import Attempt, Health, HealthLimits, Outcome
from shoal.load_balancer.hedging import Hedging
from shoal.load_balancer.latency import PeakEwma
from shoal.load_balancer.policies import POLICIES, Policy
from shoal.load_balancer.pool import NO_ROOM, Choice, Pool, Room, Tier
from shoal.load_balancer.replica import Replica, Worker
from shoal.load_balancer.standing import Reliability

__all__ = [
    "NO_ROOM",
    "POLICIES",
    "Attempt",
    "Choice",
    "Health",
    "HealthLimits",
    "Hedging",
    "Outcome",
    "PeakEwma",
    "Policy",
    "Pool",
    "Reliability",
    "Replica",
    "RetryBudget",
    "Room",
    "Tier",
    "Worker",
]
