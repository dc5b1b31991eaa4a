"""A coordinator, built."""

from __future__ import annotations

import asyncio
import errno
import logging
import random
import uuid
from collections.abc import Mapping
from ipaddress import ip_network

from prometheus_client import CollectorRegistry

from shoal.api import admin, build_app
from shoal.api.limits import ApiLimits
from shoal.api.listener import Listener
from shoal.config import CacheConfig, Config, CoordinatorConfig, KeepConfig, TenantConfig, variable
from shoal.coordinator.admission import Admission, Turns
from shoal.coordinator.control import Control
from shoal.coordinator.dataplane import DataPlane
from shoal.coordinator.disk_tier import DiskTier, cache_file
from shoal.coordinator.dispatch import Dispatcher
from shoal.coordinator.fleet import Fleet
from shoal.coordinator.in_flight import InFlight
from shoal.coordinator.jobs import Jobs
from shoal.coordinator.keeper import Keeper
from shoal.coordinator.native import NativeSurface
from shoal.coordinator.overview import Overview
from shoal.coordinator.responses import Responses
from shoal.coordinator.worker_states import WorkerStates
from shoal.discovery import MemoryStore, Store, open_store
from shoal.errors import ConfigError, ModelNotFound
from shoal.load_balancer import Health
from shoal.model_registry import Registry, restored
from shoal.node.models import configured_aliases, configured_models
from shoal.rpc import Hello, Network, Server, TcpNetwork
from shoal.telemetry import CoordinatorMetrics, KeptMetrics, ResponseCacheMetrics
from shoal.telemetry.relay import FleetMetrics
from shoal.types import CoordinatorId

logger = logging.getLogger(__name__)

NO_DISK = CacheConfig()
NO_TENANTS: Mapping[str, TenantConfig] = {}
KEEP = KeepConfig()


class Coordinator:
    """Everything of a coordinator but HTTP, over any network: what a simulation runs too."""

    def __init__(
        self,
        settings: CoordinatorConfig,
        registry: Registry,
        network: Network,
        *,
        store: Store | None = None,
        chance: random.Random | None = None,
        cache: CacheConfig = NO_DISK,
        tenants: Mapping[str, TenantConfig] = NO_TENANTS,
        keep: KeepConfig = KEEP,
    ) -> None:
        self._settings = settings
        self._network = network
        name = CoordinatorId(f"coordinator-{uuid.uuid4().hex[:8]}")
        health = Health()
        collected, measured = CollectorRegistry(), FleetMetrics()
        self.metrics = CoordinatorMetrics(collected, is_known=registry.__contains__, tenants=tenants)
        self.admission = Admission(settings.max_in_flight, tenants=tenants, rejected=self.metrics.rejected)
        self.fleet = Fleet(
            name,
            registry=registry,
            health=health,
            metrics=self.metrics,
            measured=measured,
            heartbeat_interval=settings.heartbeat_interval,
            zone=settings.zone,
            chance=chance,
        )
        collected.register(measured)
        collected.register(WorkerStates(self.fleet.members))
        self.turns = Turns(self.fleet, self.admission, resolve=registry.resolve, observe=self.metrics.waiting)
        self.fleet.on_room = self.turns.changed
        self.dispatcher = Dispatcher(
            fleet=self.fleet, health=health, registry=registry, turns=self.turns, metrics=self.metrics
        )
        in_flight = InFlight()
        self.responses = Responses(
            self.dispatcher,
            max_entries=cache.max_entries,
            max_bytes=cache.max_bytes,
            metrics=ResponseCacheMetrics(collected),
            disk=DiskTier(cache_file(cache.url), max_bytes=cache.max_disk_bytes) if cache.url else None,
        )
        self.plane = DataPlane(
            registry=registry,
            fleet=self.fleet,
            responses=self.responses,
            admission=self.admission,
            metrics=self.metrics,
            in_flight=in_flight,
            request_timeout=settings.request_timeout,
        )
        self.control = Control(
            registry=registry,
            fleet=self.fleet,
            in_flight=in_flight,
            store=store or MemoryStore(),
            drain_timeout=settings.drain_timeout,
            forget=self.responses.forget,
        )
        self.overview = Overview(registry=registry, fleet=self.fleet, in_flight=in_flight, control=self.control)
        self._hello = Hello(role="coordinator", node_id=name)
        # A client's many requests come on one connection; half of the places are left to the others.
        share = max(1, settings.max_in_flight // 2)
        self.keeper = Keeper(keep, KeptMetrics(collected))
        self._handle = NativeSurface(self.plane, self.fleet, self.keeper, share=share).handle
        self.server = Server(hello=self._hello, handler=self._handle)

    def start(self) -> None:
        self.fleet.start()
        self.control.start()
        self.responses.start()
        for worker in self._settings.workers:
            self.fleet.call(self._network, worker, self._hello, self._handle)

    async def stop(self) -> None:
        """Take nothing new, let what runs end, then close every connection."""
        self.keeper.leave()
        await self.admission.drain(self._settings.drain_timeout)
        self.dispatcher.close()
        await self.control.close()
        await self.responses.close()
        await self.fleet.close()
        await self.server.close("the coordinator stops")
        await self.keeper.close()


def open_registry(config: Config) -> tuple[Store, Registry]:
    """What was configured, and what was changed since, where that is kept. Raises :class:`ConfigError`."""
    configured = Registry(configured_models(config), configured_aliases(config))
    _warn_of_fallbacks(configured)
    if not config.registry.url:
        return MemoryStore(), configured
    store = open_store(config.registry.url)
    try:
        return store, restored(configured, store.load())
    except BaseException:
        store.close()
        raise


def _warn_of_fallbacks(registry: Registry) -> None:
    """A worker may tell of a model that no file names, so one that is not known now is no error."""
    for spec in registry.list():
        for name in spec.settings.fallback:
            try:
                registry.resolve(name)
            except ModelNotFound as error:
                extra = {"action": "fallback_unknown", "model": spec.name}
                logger.warning("a fallback of '%s' is not known yet: %s", spec.id, error.message, extra=extra)


class CoordinatorNode:
    """A coordinator on TCP, with HTTP on the same port."""

    def __init__(self, config: Config) -> None:
        self._settings = config.coordinator
        store, registry = open_registry(config)
        self._coordinator = Coordinator(
            config.coordinator,
            registry,
            TcpNetwork(),
            store=store,
            cache=config.cache,
            keep=config.keep,
            tenants=config.tenants,
        )
        surface = admin.routes(
            self._coordinator.control,
            self._coordinator.overview,
            decision=self._coordinator.dispatcher.decision,
            anybody=config.coordinator.admin == "any",
        )
        # Half of the places are left to requests whose clients wait.
        self._jobs = Jobs(
            config.jobs,
            admission=self._coordinator.admission,
            max_running=max(1, config.coordinator.max_in_flight // 2),
        )
        app = build_app(
            self._coordinator.plane,
            metrics=self._coordinator.metrics.render,
            jobs=self._jobs,
            keeper=self._coordinator.keeper,
            admin=surface,
            limits=ApiLimits(trusted_proxies=tuple(map(ip_network, config.coordinator.trusted_proxies))),
        )
        self._started = False
        self._listener = Listener(app, self._coordinator.server.accept, drain_timeout=self._settings.drain_timeout)

    async def start(self) -> str:
        try:
            address = await self._listener.start(self._settings.host, self._settings.port)
        except ConfigError as error:
            if getattr(error.__cause__, "errno", None) != errno.EADDRINUSE:
                raise
            advice = f"choose another port with --listen-port or {variable('coordinator.port')}"
            raise ConfigError(f"{error.message}: {advice}") from error
        self._started = True
        self._coordinator.start()
        logger.info("coordinator serves on http://%s", address, extra={"action": "coordinator_started"})
        return address

    async def wait_stopped(self) -> None:
        await asyncio.Event().wait()

    async def stop(self) -> None:
        if self._started:
            running = self._coordinator.admission.in_flight
            logger.info("stopping: %d requests still run", running, extra={"action": "coordinator_stopping"})
        await self._coordinator.stop()
        await self._jobs.close()
        await self._listener.stop()
        if self._started:
            logger.info("stopped", extra={"action": "coordinator_stopped"})
