"""The workers of this coordinator: the shell that joins :class:`Membership` to live connections."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Sequence, Set
from contextlib import suppress
from typing import Any

from shoal.aio import Tasks
from shoal.clock import now
from shoal.cluster import Member, Membership
from shoal.coordinator.watch import Watch
from shoal.errors import ConfigError, Conflict, NotFound, ProtocolError, ShoalError, WorkerLost
from shoal.load_balancer import NO_ROOM, Health, Pool, Replica, Room
from shoal.messages import (
    Deploy,
    Deregister,
    Drain,
    Invite,
    LoadReport,
    MetricsReport,
    ModelInfo,
    Register,
    Registered,
    Status,
    Undeploy,
)
from shoal.model_registry import ModelSpec, Registry
from shoal.rpc import Connection, Dialer, Handler, Hello, Network
from shoal.telemetry import CoordinatorMetrics
from shoal.telemetry.relay import FleetMetrics
from shoal.types import CoordinatorId, ModelId, ModelPart, ModelState, WorkerId, WorkerState

logger = logging.getLogger(__name__)

_TOLD_BY_MODELS = (WorkerState.STARTING, WorkerState.READY)
INVITE_TIMEOUT = 5.0  # seconds
WEIGH_INTERVAL = 1.0  # seconds between two comparisons of the replicas of a model
ABSENT_INTERVAL = 5.0  # seconds between two looks for models that no worker has any more
ANSWER_TIMEOUT = 5.0  # seconds a worker has beside the time it was given to drain


class Fleet:
    """Takes registrations and statuses, notices who is silent or has gone, and hands out connections.

    ``zone`` is this coordinator's own.
    """

    def __init__(
        self,
        coordinator_id: CoordinatorId,
        *,
        registry: Registry,
        health: Health,
        metrics: CoordinatorMetrics,
        measured: FleetMetrics,
        heartbeat_interval: float,
        zone: str = "",
        chance: random.Random | None = None,
    ) -> None:
        self._coordinator_id = coordinator_id
        self._registry = registry
        self._health = health
        self._metrics = metrics
        self._measured = measured
        self._heartbeat_interval = heartbeat_interval  # seconds
        self._membership = Membership(heartbeat_interval=heartbeat_interval, zone=zone, chance=chance)
        self._links: dict[Connection, Member] = {}
        self._connections: dict[WorkerId, Connection] = {}
        self._dialers: list[Dialer] = []
        self._tasks = Tasks()
        self._watch = Watch(self._membership, self._links, self._tasks)
        #: Called when a worker came, went, or told something new of itself or its models.
        self.on_change: Callable[[], None] = lambda: None
        #: Called when a worker may have room that it had not before, or is lost.
        self.on_room: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        states = ", ".join(f"{count} {state}" for state, count in self._membership.count().items())
        return f"<Fleet of {len(self._membership)} workers: {states or 'none'}>"

    def start(self) -> None:
        self._tasks.start(self._watch.run(), name="watch workers")
        self._tasks.start(self._forget(), name="forget absent models")
        self._tasks.start(self._weigh(), name="weigh replicas")

    def call(self, network: Network, address: str, hello: Hello, handler: Handler) -> None:
        """Keep a connection to a worker that does not know of this coordinator, and invite it."""
        dialer = Dialer(network, address, hello=hello, handler=handler, on_connected=_invite)
        dialer.start()
        self._dialers.append(dialer)

    async def close(self) -> None:
        await self._tasks.close()
        await asyncio.gather(*(dialer.close() for dialer in self._dialers))

    # -- what workers say

    def register(self, message: Register, connection: Connection) -> Registered:
        """Take a worker in. Raises :class:`ShoalError` when it cannot be."""
        if connection.peer.role != "worker":
            raise ProtocolError(f"a {connection.peer.role} cannot register as a worker")
        known = connection in self._links
        self._check_id(message, connection)
        earlier = self._connections.get(message.worker_id)
        self._measured.forget(message.worker_id)  # of an earlier life
        member = self._membership.registered(message, now())
        self._learn(message)
        self._links[connection] = member
        self._connections[member.worker_id] = connection
        self._metrics.workers(self._membership.count())
        if not known:
            self._tasks.start(self._accompany(connection), name=f"accompany {member.worker_id}")
        if earlier is not None and earlier is not connection:
            # Who is still there at its other end dials again, and learns where it stands.
            self._tasks.start(earlier.close("its worker registered anew"), name="close replaced")
        logger.info(
            "%s registered with %s",
            member.worker_id,
            _listed(message.models),
            extra={"action": "worker_registered", "worker": member.worker_id, "address": message.address},
        )
        self._changed()
        return Registered(self._coordinator_id, self._heartbeat_interval)

    def status(self, message: Status, connection: Connection) -> None:
        member = self._member(connection)
        self._watch.suspect(member, False)
        before = (member.state, member.told_models)
        self._membership.reported(member, message, now())
        if before != (member.state, member.told_models):
            self._measured.keep(member.worker_id, {str(info.part) for info in member.told_models})
            self._learn(message)
            self._changed()
            self._metrics.workers(self._membership.count())
            logger.info(
                "%s: %s%s",
                member.worker_id,
                _listed(message.models),
                "" if member.state in _TOLD_BY_MODELS else f"; {member.state}",
                extra={"action": "worker_state", "worker": member.worker_id, "state": member.state},
            )

    def loaded(self, message: LoadReport, connection: Connection) -> None:
        member = self._member(connection)
        self._watch.suspect(member, False)
        self._membership.loaded(member, message.load, now())

    def measured(self, message: MetricsReport, connection: Connection) -> None:
        self._measured.take_in(self._member(connection).worker_id, message)

    def deregister(self, message: Deregister, connection: Connection) -> None:
        self._left(self._member(connection), message.reason)
        self._changed()

    # -- for the data plane

    def pool(self, part: ModelPart) -> Pool | None:
        return self._membership.pool(part)

    def replicas(self, part: ModelPart) -> Sequence[Replica]:
        return self._membership.replicas(part)

    def room(self, spec: ModelSpec) -> Room:
        """What the workers take of it; of a model in shards, the shard that takes the least."""
        if (pool := self._membership.pool(spec.whole)) is not None:
            return pool.room
        pools = [self._membership.pool(part) for part in spec.parts()]
        rooms = [NO_ROOM if pool is None else pool.room for pool in pools]
        return Room(
            min(room.places for room in rooms),
            min(room.requests for room in rooms),
            all(room.is_free for room in rooms),
        )

    def is_ready(self, model: ModelId) -> bool:
        """Is there a worker for each of its shards that answers, though it may be full now?"""
        pools = [self._membership.pool(part) for part in self._registry.parts(model)]
        return all(pool is not None and pool.serving for pool in pools)

    def state(self, model: ModelId) -> tuple[ModelState, str]:
        """Ready as :meth:`is_ready` says; failed when no worker of some shard could load it; and why."""
        if self.is_ready(model):
            return ModelState.READY, ""
        reason = ""
        for part in self._registry.parts(model):
            told = [replica.info for replica in self._membership.pool(part) or ()]
            reason = next((info.reason for info in told if info.reason), reason)
            if told and all(info.state is ModelState.FAILED for info in told):
                return ModelState.FAILED, told[0].reason
        return ModelState.LOADING, reason

    def present(self) -> Set[ModelId]:
        """Every model that some worker has, in whatever state."""
        return {model for member in self._membership.members() for model in member.models}

    def members(self) -> tuple[Member, ...]:
        return self._membership.members()

    def way_to(self, worker_id: WorkerId) -> tuple[Connection, Member]:
        """Raises :class:`WorkerLost`."""
        connection = self._connections.get(worker_id)
        member = None if connection is None else self._links.get(connection)
        if connection is None or member is None:
            raise WorkerLost(f"worker {worker_id} has gone")
        return connection, member

    # -- for those who change it

    def instance(self, worker_id: WorkerId) -> str:
        """Of the worker's process, as it is now; empty once it has gone."""
        connection = self._connections.get(worker_id)
        return "" if connection is None else self._links[connection].registration.instance

    async def order(self, worker_id: WorkerId, message: Deploy | Undeploy, timeout: float) -> None:
        """Return once the worker has done it. Raises :class:`ShoalError`."""
        connection = self._connections.get(worker_id)
        if connection is None:
            raise WorkerLost(f"worker {worker_id} has gone")
        await connection.call(message, timeout=timeout)

    def drain(self, worker_id: WorkerId, timeout: float) -> Coroutine[Any, Any, None]:
        """Nothing new goes there from now on; the rest is to be awaited. Raises :class:`NotFound`."""
        connection = self._connections.get(worker_id)
        if connection is None:
            raise NotFound(f"there is no worker '{worker_id[:64]}'", param="worker")
        self._membership.draining(self._links[connection])
        self._changed()
        return _drain(connection, timeout)

    # -- who has gone

    def _check_id(self, message: Register, connection: Connection) -> None:
        """A connection speaks for one worker, and a worker that is there keeps its id to itself."""
        own = self._links.get(connection)
        if own is not None and own.worker_id != message.worker_id:
            raise ProtocolError(f"{connection.name} has registered as worker {own.worker_id}; it cannot be another too")
        present = self._connections.get(message.worker_id)
        if present is None or present is connection or present.is_closed:
            return
        member = self._links[present]
        # Another life of the same worker: the earlier one may have died without a word.
        if member.registration.instance != message.instance and not self._watch.is_silent(member, present):
            raise Conflict(f"there is a worker {message.worker_id} already, and it is another one: give one a new id")

    def _changed(self) -> None:
        self.on_change()
        self.on_room()

    def _member(self, connection: Connection) -> Member:
        try:
            return self._links[connection]
        except KeyError:
            raise ProtocolError(f"{connection.name} has not registered") from None

    def _left(self, member: Member, reason: str) -> None:
        self._membership.left(member, reason)
        self._metrics.workers(self._membership.count())
        extra = {"action": "worker_left", "worker": member.worker_id}
        logger.info("%s left: %s", member.worker_id, reason, extra=extra)

    def _learn(self, message: Register | Status) -> None:
        refused: list[ConfigError] = []
        for info in message.models:
            try:
                self._registry.learn(info)
            except ConfigError as error:
                refused.append(error)
        if refused:
            logger.warning(
                "%d of the %d models of worker %s are not taken; the first: %s",
                len(refused),
                len(message.models),
                message.worker_id,
                refused[0].message,
                extra={"action": "model_refused", "worker": message.worker_id},
            )

    async def _weigh(self) -> None:
        while True:
            await asyncio.sleep(WEIGH_INTERVAL)
            self._membership.weigh(now())

    async def _forget(self) -> None:
        while True:
            await asyncio.sleep(ABSENT_INTERVAL)
            if gone := self._registry.forget_absent(self.present(), now()):
                extra = {"action": "models_forgotten"}
                logger.info("no worker has these any more: %s", ", ".join(map(str, gone[:20])), extra=extra)
                self._changed()

    async def _accompany(self, connection: Connection) -> None:
        """Until a worker's connection ends, however it does; then the worker is out of rotation at once."""
        await connection.wait_closed()
        member = self._links.pop(connection)
        if self._connections.get(member.worker_id) is connection:
            del self._connections[member.worker_id]
            self._measured.forget(member.worker_id)
        if member.state is WorkerState.DRAINING:
            # Its goodbye may be overtaken by the end of its connection.
            self._left(member, "it was draining")
        elif member.state is not WorkerState.GONE:
            self._membership.fell(member, now())
            self._membership.left(member, "its connection ended")
            self._metrics.workers(self._membership.count())
            self._health.connection_lost(member.worker_id, now())
            logger.warning(
                "%s is lost: %s",
                member.worker_id,
                connection.reason,
                extra={"action": "worker_lost", "worker": member.worker_id},
            )
        self._changed()


def _listed(models: Sequence[ModelInfo]) -> str:
    names = (info.name if info.shard is None else f"{info.name}#{info.shard}" for info in models)
    told = (f"{name} {info.state}" for name, info in zip(names, models, strict=True))
    return ", ".join(told) or "no models"


async def _invite(connection: Connection) -> None:
    await connection.call(Invite(), timeout=INVITE_TIMEOUT)


async def _drain(connection: Connection, timeout: float) -> None:
    with suppress(ShoalError):  # that it has gone is noticed elsewhere
        await connection.call(Drain(timeout), timeout=timeout + ANSWER_TIMEOUT)
