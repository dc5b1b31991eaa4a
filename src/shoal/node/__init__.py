"""The composition root: the only place that builds components and joins them."""

from shoal.node.coordinator import Coordinator, CoordinatorNode
from shoal.node.models import configured_aliases, configured_models
from shoal.node.running import Node, run
from shoal.node.serve import ServeNode
from shoal.node.worker import WorkerNode

__all__ = [
    "Coordinator",
    "CoordinatorNode",
    "Node",
    "ServeNode",
    "WorkerNode",
    "configured_aliases",
    "configured_models",
    "run",
]
