"""The workers of this coordinator: the shell that joins :class:`Membership` to live connections."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from shoal.aio import Tasks
from shoal.clock import now
from shoal.cluster import Member, Membership
from shoal.errors import ConfigError, ProtocolError, WorkerLost
from shoal.load_balancer import Health
from shoal.messages import Deregister, Invite, Register, Registered, Status
from shoal.model_registry import Registry
from shoal.router import Candidate
from shoal.rpc import Connection, Dialer, Handler, Hello, Network
from shoal.telemetry import CoordinatorMetrics
from shoal.types import CoordinatorId, ModelId, ModelState, WorkerId, WorkerState

logger = logging.getLogger(__name__)

INVITE_TIMEOUT = 5.0  # seconds


class Fleet:
    """Takes registrations and statuses, notices who has gone, and hands out connections."""

    def __init__(
        self,
        coordinator_id: CoordinatorId,
        *,
        registry: Registry,
        health: Health,
        metrics: CoordinatorMetrics,
        heartbeat_interval: float,
    ) -> None:
        self._coordinator_id = coordinator_id
        self._registry = registry
        self._health = health
        self._metrics = metrics
        self._heartbeat_interval = heartbeat_interval  # seconds
        self._membership = Membership(heartbeat_interval=heartbeat_interval)
        self._links: dict[Connection, Member] = {}
        self._connections: dict[WorkerId, Connection] = {}
        self._dialers: list[Dialer] = []
        self._tasks = Tasks()

    def __repr__(self) -> str:
        states = ", ".join(f"{count} {state}" for state, count in self._membership.count().items())
        return f"<Fleet of {len(self._membership)} workers: {states or 'none'}>"

    def start(self) -> None:
        self._tasks.start(self._watch(), name="watch heartbeats")

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
        for info in message.models:
            try:
                self._registry.learn(info)
            except ConfigError as error:
                logger.warning("%s", error.message, extra={"action": "model_refused", "worker": message.worker_id})
        known = connection in self._links
        member = self._membership.registered(message, now())
        self._links[connection] = member
        self._connections[member.worker_id] = connection
        self._metrics.workers(self._membership.count())
        if not known:
            self._tasks.start(self._accompany(connection), name=f"accompany {member.worker_id}")
        logger.info(
            "worker %s at %s registered with %s",
            member.worker_id,
            message.address,
            ", ".join(f"{info.name} ({info.state})" for info in message.models) or "no models",
            extra={"action": "worker_registered", "worker": member.worker_id},
        )
        return Registered(self._coordinator_id, self._heartbeat_interval)

    def status(self, message: Status, connection: Connection) -> None:
        member = self._member(connection)
        before = (member.state, member.models)
        self._membership.reported(member, message, now())
        self._metrics.workers(self._membership.count())
        if before != (member.state, member.models):
            logger.info(
                "worker %s is %s: %s",
                member.worker_id,
                member.state,
                ", ".join(f"{info.name} ({info.state})" for info in message.models) or "no models",
                extra={"action": "worker_state", "worker": member.worker_id, "state": member.state},
            )

    def deregister(self, message: Deregister, connection: Connection) -> None:
        member = self._member(connection)
        self._membership.left(member, message.reason)
        self._metrics.workers(self._membership.count())
        logger.info(
            "worker %s left: %s",
            member.worker_id,
            message.reason,
            extra={"action": "worker_left", "worker": member.worker_id},
        )

    # -- for the data plane

    def candidates(self, model: ModelId, now: float) -> Sequence[Candidate]:
        return self._membership.candidates(model, now)

    def is_ready(self, model: ModelId) -> bool:
        return any(
            candidate.model_state is ModelState.READY
            and candidate.replica.state in (WorkerState.READY, WorkerState.OVERLOADED)
            for candidate in self.candidates(model, now())
        )

    def members(self) -> tuple[Member, ...]:
        return self._membership.members()

    @contextmanager
    def occupy(self, worker_id: WorkerId) -> Iterator[Connection]:
        """The way to a worker, and one place there for as long as a request runs."""
        connection = self._connections.get(worker_id)
        if connection is None:
            raise WorkerLost(f"worker {worker_id} has gone")
        with self._links[connection].occupied():
            yield connection

    # -- who has gone

    def _member(self, connection: Connection) -> Member:
        try:
            return self._links[connection]
        except KeyError:
            raise ProtocolError(f"{connection.name} has not registered") from None

    async def _accompany(self, connection: Connection) -> None:
        """Until a worker's connection ends, however it does; then the worker is out of rotation at once."""
        await connection.wait_closed()
        member = self._links.pop(connection)
        if self._connections.get(member.worker_id) is connection:
            del self._connections[member.worker_id]
        if member.state is not WorkerState.GONE:
            self._membership.left(member, "its connection ended")
            self._metrics.workers(self._membership.count())
            self._health.connection_lost(member.worker_id, now())
            logger.warning("worker %s is lost: %r", member.worker_id, connection, extra={"action": "worker_lost"})

    async def _watch(self) -> None:
        """A worker whose heartbeat stays away loses its connection, and with it everything else."""
        while True:
            await asyncio.sleep(self._heartbeat_interval)
            suspects = self._membership.suspects(now())
            for connection in [link for link, member in self._links.items() if member in suspects]:
                self._tasks.start(connection.close("no heartbeat"), name="close suspect")


async def _invite(connection: Connection) -> None:
    await connection.call(Invite(), timeout=INVITE_TIMEOUT)
