"""From the name and the key in a request to the worker that runs it."""

from shoal.router.route import RETRY_AFTER, Fleet, Reason, RoutingDecision, route
from shoal.router.scatter import Part, gather, scatter
from shoal.router.sharding import ShardOf, sharding

__all__ = [
    "RETRY_AFTER",
    "Fleet",
    "Part",
    "Reason",
    "RoutingDecision",
    "ShardOf",
    "gather",
    "route",
    "scatter",
    "sharding",
]
