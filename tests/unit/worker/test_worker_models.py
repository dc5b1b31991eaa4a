from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable

import msgspec
import pytest

from shoal.errors import Forbidden, InvalidRequest, ModelLoadFailed, ModelNotFound, ModelUnavailable, Overloaded
from shoal.messages import Chunk, Deploy, Generate, Infer, Inferred, Load, MetricFamily, ModelInfo, Undeploy
from shoal.model_registry import ModelSpec
from shoal.types import ModelId, ModelKind, ModelName, ModelPart, ModelState, Version
from shoal.worker import models as module
from shoal.worker.models import Models
from shoal.worker.runtime import Send

ORDER = Deploy(ModelName("m"), Version("1"), {"uri": "echo"})
M = ModelPart(ModelId(ModelName("m")))


class Runtime:
    """Loads when it is told to."""

    infer_now = None

    def __init__(self, spec: ModelSpec, shard: int | None) -> None:
        self.info = ModelInfo(spec.name, ModelKind.TENSOR, ModelState.LOADING, version=spec.version, shard=shard)
        self.closed = 0
        self._changed: Callable[[], None] = lambda: None

    def load(self) -> Load:
        return Load()

    def metrics(self) -> Iterable[MetricFamily]:
        return ()

    def start(self, changed: Callable[[], None]) -> None:
        self._changed = changed

    def becomes(self, state: ModelState, reason: str = "") -> None:
        self.info = msgspec.structs.replace(self.info, state=state, reason=reason)
        self._changed()

    async def generate(self, request: Generate, *, deadline: float | None) -> AsyncGenerator[Chunk, None]:
        for chunk in tuple[Chunk, ...]():
            yield chunk

    async def infer(self, request: Infer, send: Send, *, deadline: float | None) -> None:
        await send(Inferred({}))

    async def close(self) -> None:
        self.closed += 1


class Bench:
    def __init__(self) -> None:
        self.built: list[Runtime] = []
        self.changes = 0
        self.models = Models({}, build=self.build, changed=self.changed)

    def build(self, spec: ModelSpec, shard: int | None) -> Runtime:
        self.built.append(Runtime(spec, shard))
        return self.built[-1]

    def changed(self) -> None:
        self.changes += 1

    def closed(self) -> int:
        return sum(runtime.closed for runtime in self.built)

    async def deploying(self, order: Deploy = ORDER) -> asyncio.Task[None]:
        task = asyncio.ensure_future(self.models.deploy(order))
        for _ in range(10):  # a model that failed is closed first
            await asyncio.sleep(0)
        return task

    async def deployed(self) -> Runtime:
        task = await self.deploying()
        self.built[-1].becomes(ModelState.READY)
        await task
        return self.built[-1]


@pytest.fixture
async def bench() -> AsyncGenerator[Bench, None]:
    made = Bench()
    yield made
    await made.models.close()


async def test_a_deploy_returns_once_the_model_is_ready(bench: Bench) -> None:
    task = await bench.deploying()
    bench.built[0].becomes(ModelState.LOADING, "half way")
    await asyncio.sleep(0)
    assert not task.done()
    assert [info.state for info in bench.models.infos()] == [ModelState.LOADING]
    bench.built[0].becomes(ModelState.READY)
    await task
    with bench.models.used(M) as runtime:
        assert runtime is bench.built[0]


async def test_a_model_that_is_there_is_not_loaded_twice(bench: Bench) -> None:
    first, second = await bench.deploying(), await bench.deploying()
    bench.built[0].becomes(ModelState.READY)
    await asyncio.gather(first, second)
    await bench.models.deploy(ORDER)
    assert len(bench.built) == 1


async def test_a_deploy_that_fails_leaves_nothing_and_may_be_tried_again(bench: Bench) -> None:
    task = await bench.deploying()
    bench.built[0].becomes(ModelState.FAILED, "no weights")
    with pytest.raises(ModelLoadFailed, match="no weights"):
        await task
    assert bench.models.infos() == ()
    assert bench.built[0].closed == 1
    await bench.deployed()


async def test_a_model_that_failed_later_is_replaced(bench: Bench) -> None:
    old = await bench.deployed()
    old.becomes(ModelState.FAILED, "its engine died")
    new = await bench.deployed()
    assert [old.closed, new.closed] == [1, 0]


async def test_a_deploy_whose_coordinator_goes_away_leaves_nothing(bench: Bench) -> None:
    task = await bench.deploying()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.models.infos() == ()
    assert bench.built[0].closed == 1


async def test_an_undeploy_waits_for_what_runs_and_takes_nothing_new(bench: Bench) -> None:
    await bench.deployed()
    with bench.models.used(M):
        task = asyncio.ensure_future(bench.models.undeploy(Undeploy(M.model.name, M.model.version, 60.0)))
        await asyncio.sleep(0)
        assert bench.models.infos() == ()  # coordinators are told at once
        with pytest.raises(ModelUnavailable, match="being unloaded"), bench.models.used(M):
            pass
        with pytest.raises(ModelUnavailable, match="being unloaded"):
            await bench.models.deploy(ORDER)
        assert bench.closed() == 0
    await task
    assert bench.closed() == 1
    with pytest.raises(ModelNotFound, match="no model 'm@1'"), bench.models.used(M):
        pass


async def test_an_undeploy_goes_on_when_its_coordinator_goes_away_and_is_not_done_twice(bench: Bench) -> None:
    runtime = await bench.deployed()
    order = Undeploy(M.model.name, M.model.version, 60.0)
    with bench.models.used(M):
        task = asyncio.ensure_future(bench.models.undeploy(order))
        await asyncio.sleep(0)
        task.cancel()
        await bench.models.undeploy(order)
    while not runtime.closed:
        await asyncio.sleep(0)
    assert runtime.closed == 1


async def test_an_undeploy_does_not_wait_for_ever(bench: Bench) -> None:
    runtime = await bench.deployed()
    with bench.models.used(M):
        await bench.models.undeploy(Undeploy(M.model.name, M.model.version, 0.01))
        assert runtime.closed == 1


async def test_an_undeploy_takes_every_shard(bench: Bench) -> None:
    for shard in (0, 1):
        task = await bench.deploying(msgspec.structs.replace(ORDER, shard=shard))
        bench.built[-1].becomes(ModelState.READY)
        await task
    assert [info.part for info in bench.models.infos()] == [ModelPart(M.model, 0), ModelPart(M.model, 1)]
    await bench.models.undeploy(Undeploy(M.model.name, M.model.version, 0.0))
    assert [runtime.closed for runtime in bench.built] == [1, 1]


@pytest.mark.parametrize(
    ("settings", "says"), [({"speed": 1}, "settings: .*speed"), ({"uri": "no model"}, "is not a model")]
)
async def test_settings_that_make_no_sense_are_the_clients_fault(
    bench: Bench, settings: dict[str, object], says: str
) -> None:
    with pytest.raises(InvalidRequest, match=says):
        await bench.models.deploy(msgspec.structs.replace(ORDER, settings=settings))


async def test_what_must_not_be_built_is_not_held() -> None:
    def refuse(spec: ModelSpec, shard: int | None) -> Runtime:
        raise Forbidden("not here")

    models = Models({}, build=refuse, changed=lambda: None)
    with pytest.raises(Forbidden):
        await models.deploy(ORDER)
    assert models.infos() == ()


async def test_the_number_of_models_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MODELS", 1)
    await bench.deployed()
    with pytest.raises(Overloaded, match="has 1 models already"):
        await bench.models.deploy(msgspec.structs.replace(ORDER, name=ModelName("n")))
