"""The fleet as state that events change, and the machine as cores that are dealt out."""

from shoal.cluster.deployment import Drop, Have, choose, plan
from shoal.cluster.membership import MAX_WORKERS, MOVES, Member, Membership
from shoal.cluster.shard_plan import deal_shards
from shoal.cluster.threads import CoreGrant, engine_environment, plan_cores, share_grant, step_environment
from shoal.cluster.vigil import Patience, Verdict, Vigil

__all__ = [
    "MAX_WORKERS",
    "MOVES",
    "CoreGrant",
    "Drop",
    "Have",
    "Member",
    "Membership",
    "Patience",
    "Verdict",
    "Vigil",
    "choose",
    "deal_shards",
    "engine_environment",
    "plan",
    "plan_cores",
    "share_grant",
    "step_environment",
]
