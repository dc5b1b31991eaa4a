"""What an operator may change while requests flow: models, aliases, workers.

Each change of the registry is stored before anybody sees it. What the workers then have to do follows from a plan
that is made anew whenever something has changed: see :mod:`shoal.cluster.deployment`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from shoal.aio import Tasks
from shoal.cluster import Drop, Have, choose, plan
from shoal.config import ModelConfig, served_as
from shoal.coordinator.fleet import Fleet
from shoal.coordinator.in_flight import InFlight
from shoal.coordinator.orders import Orders
from shoal.discovery import Store
from shoal.errors import (
    ConfigError,
    Conflict,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    ShoalError,
    WorkerLost,
)
from shoal.model_registry import ModelSpec, Placement, Registry, changes, make_spec, parse_model_id, records
from shoal.preproc import read_step
from shoal.types import ModelId, ModelPart, WorkerId

logger = logging.getLogger(__name__)

MAX_CHANGES: Final = 64  # loads and unloads at a time


class Control:
    """``forget`` is told of versions that no longer answer to their name, such as by a cache of their answers."""

    def __init__(
        self,
        *,
        registry: Registry,
        fleet: Fleet,
        in_flight: InFlight,
        store: Store,
        drain_timeout: float,
        forget: Callable[[ModelId], object] = lambda model: None,
    ) -> None:
        self.refused: dict[tuple[str, ModelPart], tuple[WorkerId, str]] = {}  # what failed to load, where and why
        self._registry = registry
        self._fleet = fleet
        self._orders = Orders(fleet)
        self._in_flight = in_flight
        self._store = store
        self._drain_timeout = drain_timeout  # seconds for what runs on a model that is unloaded
        self._forget = forget
        self._changing: set[ModelId] = set()  # being loaded or unloaded by hand: the plan leaves them alone
        self._ordered: set[tuple[WorkerId, ModelPart | ModelId]] = set()
        self._wake = asyncio.Event()
        self._tasks = Tasks()
        fleet.on_change = self._wake.set

    def start(self) -> None:
        self._tasks.start(self._follow(), name="follow the plan")

    async def close(self) -> None:
        await self._tasks.close()
        self._store.close()

    # -- what an operator asks for

    async def load(
        self, model_id: str, settings: ModelConfig, placement: Placement, *, given: Collection[str] = ()
    ) -> ModelSpec:
        """Have workers load a version; clients find it once all of them are ready. It is served as the live version of
        its name is, but for those settings that are ``given``.

        What fails leaves everything as it was. It goes on when the caller is cancelled. Raises :class:`ShoalError`.
        """
        try:
            spec = make_spec(model_id, settings)
            if (live := self._registry.live_version(spec.name)) is not None:
                settings = served_as(live.settings, settings, given)
                spec = make_spec(model_id, settings)
            for step in (*settings.preproc, *settings.postproc):
                read_step(step)
        except ConfigError as error:
            raise InvalidRequest(error.message, param=error.param) from error
        self._check_free([spec.id])
        await self._apart(spec.id, self._load(spec, placement), name=f"load {spec.id}")
        return spec

    async def unload(self, name: str) -> Sequence[ModelId]:
        """Take a version, or every version of a name, away: from clients at once, from the workers when what runs has
        ended. It goes on when the caller is cancelled. Raises :class:`ShoalError`."""
        models = self._named(name)
        self._check_free(models)
        with self._change(), _conflicts():
            self._registry.remove(models)
        for model in models:
            self._forget(model)
        logger.info("model '%s' is unloaded", name, extra={"action": "model_unloaded", "model": models[0].name})
        leave = [self._apart(model, self._unload(model), name=f"unload {model}") for model in models]
        await asyncio.gather(*leave)
        return models

    def promote(self, name: str) -> None:
        """Let a version answer to the bare name, from the next request on. Raises :class:`ShoalError`."""
        model = _exactly(name)
        self._registry.resolve_exactly(model)
        if not self._fleet.is_ready(model):
            raise Conflict(f"model '{model}' is ready nowhere, so it cannot take over", param="model")
        before = self._registry.resolve(model.name).id
        with self._change():
            self._registry.promote(model)
        if before != model:
            self._forget(before)
        extra = {"action": "model_promoted", "model": model.name, "version": model.version}
        logger.info("model '%s' is live instead of '%s'", model, before, extra=extra)

    def point(self, alias: str, targets: Mapping[str, int]) -> None:
        """Raises :class:`InvalidRequest`."""
        try:
            with self._change():
                self._registry.point(alias, targets)
        except ConfigError as error:
            raise InvalidRequest(error.message, param=error.param) from error
        logger.info("alias '%s' leads to %s", alias, dict(targets), extra={"action": "alias_set", "alias": alias})

    def unpoint(self, alias: str) -> None:
        """Raises :class:`ModelNotFound`."""
        if alias not in self._registry.all_aliases():
            raise ModelNotFound(f"there is no alias '{alias[:64]}'", param="alias")
        with self._change():
            self._registry.unpoint(alias)
        logger.info("alias '%s' is deleted", alias, extra={"action": "alias_deleted", "alias": alias})

    def drain(self, worker_id: str, timeout: float | None = None) -> None:
        """Let a worker finish what it has, at most ``timeout`` seconds, and leave; this does not wait for it.

        Raises :class:`~shoal.errors.NotFound`.
        """
        work = self._fleet.drain(WorkerId(worker_id), timeout or self._drain_timeout)
        self._tasks.start(work, name=f"drain {worker_id}")

    # -- how it is done

    @contextmanager
    def _change(self) -> Iterator[None]:
        """A change of the registry, which is stored or not made. Nothing else runs meanwhile: it is not awaited."""
        before = self._registry.snapshot()
        try:
            yield
            self._store.save(changes(records(before), records(self._registry)))
        except BaseException:
            self._registry.restore(before)
            raise
        self._wake.set()

    def _apart(self, model: ModelId, work: Coroutine[Any, Any, None], *, name: str) -> Coroutine[Any, Any, None]:
        """Begin it in a task of its own, which ends in order when the caller leaves. The plan lets the model alone."""
        self._changing.add(model)
        task = self._tasks.start(_outcome(work), name=name)
        task.add_done_callback(lambda _: self._changed(model))
        return _told(task)

    def _check_free(self, models: Iterable[ModelId]) -> None:
        if busy := self._changing.intersection(models):
            raise Conflict(f"model '{min(busy)}' is being changed already", param="model")
        if len(self._changing) >= MAX_CHANGES:
            raise Overloaded(f"{MAX_CHANGES} models are being changed, which is the limit", retry_after=1.0)

    def _changed(self, model: ModelId) -> None:
        self._changing.discard(model)
        self._wake.set()

    async def _load(self, spec: ModelSpec, placement: Placement) -> None:
        with _conflicts(), self._registry.reserved(spec):
            orders = self._choose(spec, placement)
            try:
                await self._orders.deploy_all(spec, orders)
            except BaseException:
                await self._orders.undeploy_all(spec.id, {order.worker_id for order in orders}, timeout=0.0)
                raise
        try:
            with self._change(), _conflicts():
                self._registry.add(spec, placement)
        except ShoalError:
            await self._orders.undeploy_all(spec.id, {order.worker_id for order in orders}, timeout=0.0)
            raise
        self._learn(spec.id)
        self.refused = {key: why for key, why in self.refused.items() if key[1].model != spec.id}
        logger.info("model '%s' is loaded", spec.id, extra={"action": "model_loaded", "model": spec.name})

    def _choose(self, spec: ModelSpec, placement: Placement) -> list[Have]:
        try:
            return choose(spec, placement, self._fleet.members(), self._registry)
        except ConfigError as error:
            raise InvalidRequest(error.message, param=error.param) from error

    async def _unload(self, model: ModelId) -> None:
        """What runs here may still have to go to a worker, be it for the first time or again."""
        await self._in_flight.ended(model, self._drain_timeout)
        self._in_flight.forget(model)
        having = {
            member.worker_id for member in self._fleet.members() for info in member.told_models if info.id == model
        }
        await self._orders.undeploy_all(model, having, timeout=self._drain_timeout)

    def _learn(self, model: ModelId) -> None:
        for member in self._fleet.members():
            for info in member.told_models:
                if info.id == model:
                    self._registry.learn(info)

    def _named(self, name: str) -> list[ModelId]:
        """Raises :class:`ModelNotFound`, also for an alias: what it leads to must be said."""
        if "@" in name:
            return [self._registry.resolve_exactly(_exactly(name)).id]
        found = [spec.id for spec in self._registry.versions(name)]
        if not found:
            raise ModelNotFound(f"there is no model of its own called '{name[:64]}'", param="model")
        return found

    # -- what follows from the plan

    async def _follow(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            members = self._fleet.members()
            instances = {member.registration.instance for member in members}
            self.refused = {key: why for key, why in self.refused.items() if key[0] in instances}
            for order in plan(self._registry, members, self.refused):
                self._follow_one(order)

    def _follow_one(self, order: Have | Drop) -> None:
        model = order.model if isinstance(order, Drop) else order.spec.id
        key = (order.worker_id, model if isinstance(order, Drop) else ModelPart(model, order.shard))
        if key not in self._ordered and model not in self._changing:
            self._ordered.add(key)
            task = self._tasks.start(self._carry_out(order), name=f"{model} on {order.worker_id}")
            task.add_done_callback(lambda _: self._ordered.discard(key))

    async def _carry_out(self, order: Have | Drop) -> None:
        if isinstance(order, Drop):
            await self._orders.undeploy_all(order.model, [order.worker_id], timeout=self._drain_timeout)
            return
        part = ModelPart(order.spec.id, order.shard)
        instance = self._fleet.instance(order.worker_id)
        try:
            await self._orders.deploy(order)
        except WorkerLost:
            return  # it is asked again when it comes back
        except ShoalError as error:
            self.refused[instance, part] = (order.worker_id, error.message)
            extra = {"action": "model_failed", "model": order.spec.name, "worker": order.worker_id}
            logger.error("%s cannot load '%s': %s", order.worker_id, part, error.message, extra=extra)
            self._wake.set()  # another one may


async def _outcome(work: Coroutine[Any, Any, None]) -> ShoalError | None:
    """Why it failed, which is the caller's to hear, if there still is one."""
    try:
        await work
    except ShoalError as error:
        logger.warning("%s", error.message, extra={"action": "change_failed", "code": error.code})
        return error
    return None


async def _told(task: asyncio.Task[ShoalError | None]) -> None:
    error = await asyncio.shield(task)
    if error is not None:
        raise error


def _exactly(name: str) -> ModelId:
    try:
        found, version = parse_model_id(name)
    except ConfigError as error:
        raise InvalidRequest(error.message, param="model") from error
    if version is None:
        raise InvalidRequest(f"give NAME@VERSION, not '{name}'", param="model")
    return ModelId(found, version)


@contextmanager
def _conflicts() -> Iterator[None]:
    """What the registry does not take, at this time, is the client's to mend."""
    try:
        yield
    except ConfigError as error:
        raise Conflict(error.message, param=error.param) from error
