"""Models that come, go and take over while requests flow: none of these may fail for it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress

import msgspec
import numpy as np
import pytest
from sim.simulation import STEP, Fleet, fleet, simulate

from shoal.config import ModelConfig, ResourceConfig, ShardConfig, TensorConfig
from shoal.discovery import MemoryStore
from shoal.errors import (
    Conflict,
    InvalidRequest,
    ModelLoadFailed,
    ModelNotFound,
    ModelUnavailable,
    NotFound,
    ShoalError,
)
from shoal.messages import Chunk, Generate, Infer, Inferred, Load, MetricFamily, ModelInfo, Sample
from shoal.model_registry import ModelSpec, Placement
from shoal.telemetry.relay import MAX_SOURCES
from shoal.types import ModelKind, ModelName, ModelState, RequestId, TensorSpec, WorkerId
from shoal.worker.reports import METRICS_INTERVAL
from shoal.worker.runtime import Send

ALL = Placement()
LOADS_IN = 2.0  # seconds
FINE, BROKEN = ModelConfig(uri="models:Fine"), ModelConfig(uri="models:Broken")


class Scripted:
    """Answers with its version. Of a model called Broken it says why it cannot be loaded."""

    infer_now = None

    def __init__(self, spec: ModelSpec, shard: int | None, closed: list[str]) -> None:
        self.broken = "Broken" in spec.target
        inputs = (TensorSpec("x", "FP32", (-1,)),)
        self.info = ModelInfo(
            spec.name, ModelKind.TENSOR, ModelState.LOADING, version=spec.version, inputs=inputs, shard=shard
        )
        self.running = 0
        self._closed = closed
        self._changed: Callable[[], None] = lambda: None

    def load(self) -> Load:
        return Load(in_flight=self.running)

    def metrics(self) -> Iterable[MetricFamily]:
        sample = Sample("shoal_batch_rows", {"model": self.info.name, "version": self.info.version}, 1.0)
        return (MetricFamily("shoal_batch_rows", "", "gauge", (sample,)),)

    def start(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._timer = asyncio.get_running_loop().call_later(LOADS_IN, self._loaded)

    def _loaded(self) -> None:
        state, reason = (ModelState.FAILED, "its weights are missing") if self.broken else (ModelState.READY, "")
        self.info = msgspec.structs.replace(self.info, state=state, reason=reason)
        self._changed()

    async def generate(self, request: Generate, *, deadline: float | None) -> AsyncGenerator[Chunk, None]:
        for chunk in tuple[Chunk, ...]():
            yield chunk

    async def infer(self, request: Infer, send: Send, *, deadline: float | None) -> None:
        self.running += 1
        try:
            await asyncio.sleep(STEP)
        finally:
            self.running -= 1
        await send(Inferred({"version": np.array([int(self.info.version)])}))

    async def close(self) -> None:
        assert not self.running, "closed under a request"
        self._timer.cancel()
        self._closed.append(str(self.info.id))


class World:
    """A fleet whose workers load what they are told, and the requests of a test."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.control = fleet.coordinator.control
        self.overview = fleet.coordinator.overview
        self.built: list[str] = []  # WORKER NAME@VERSION
        self.closed: list[str] = []
        self.answers: Counter[int | str] = Counter()
        self._asked = 0

    async def add_worker(self, host: str) -> None:
        def build(spec: ModelSpec, shard: int | None) -> Scripted:
            self.built.append(f"{host} {spec.id}" + ("" if shard is None else f"#{shard}"))
            return Scripted(spec, shard, self.closed)

        await self.fleet.add_worker(host, build=build)

    def replicas(self, model: str) -> Mapping[str, str]:
        """The state of a model by worker."""
        return {
            worker.id: held.state for worker in self.overview.workers() for held in worker.models if held.model == model
        }

    async def ask(self, model: str = "m") -> int:
        self._asked += 1
        request = Infer(RequestId(f"r{self._asked}"), ModelName(model), {"x": np.zeros(1, np.float32)})
        answer = await self.fleet.coordinator.plane.infer(request, timeout=60)
        return int(answer.outputs["version"][0])

    async def _keep_asking(self, model: str) -> None:
        while True:
            try:
                self.answers[await self.ask(model)] += 1
            except ShoalError as error:
                self.answers[error.code] += 1

    @asynccontextmanager
    async def load_on(self, model: str, clients: int = 8) -> AsyncGenerator[None, None]:
        """That many clients ask without a pause while the block runs."""
        tasks = [asyncio.ensure_future(self._keep_asking(model)) for _ in range(clients)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task


@asynccontextmanager
async def world(workers: int = 2, *, store: MemoryStore | None = None) -> AsyncGenerator[World, None]:
    async with fleet(store=store) as made:
        found = World(made)
        for number in range(1, workers + 1):
            await found.add_worker(f"w{number}")
        await made.until_ready(workers)
        yield found


def test_a_version_is_loaded_promoted_and_the_old_one_unloaded_without_a_failed_request() -> None:
    async def scenario() -> None:
        async with world() as w:
            await w.control.load("m@1", FINE, ALL)
            async with w.load_on("m"):
                await asyncio.sleep(1)
                await w.control.load("m@2", FINE, ALL)
                await asyncio.sleep(1)
                assert set(w.answers) == {1}
                w.control.promote("m@2")
                await w.control.unload("m@1")
                await asyncio.sleep(1)
            assert set(w.answers) == {1, 2}
            assert min(w.answers.values()) > 100
            assert w.closed == ["m@1", "m@1"]
            assert not w.replicas("m@1")
            assert await w.ask() == 2
            with pytest.raises(ModelNotFound):
                await w.ask("m@1")

    simulate(scenario())


def test_what_models_that_have_gone_measured_goes_with_them_however_many_there_were() -> None:
    async def scenario() -> None:
        async with world(workers=1) as w:
            (worker,) = w.fleet.coordinator.fleet.members()
            for number in range(MAX_SOURCES + 20):
                await w.control.load(f"m@{number}", FINE, ALL)
                await asyncio.sleep(METRICS_INTERVAL)
                await w.control.unload("m")
            assert w.fleet.coordinator.fleet.members() == (worker,)
            await w.control.load("n", FINE, ALL)
            await asyncio.sleep(METRICS_INTERVAL)
            shown = w.fleet.coordinator.metrics.render().decode()
            assert [line for line in shown.split("\n") if line.startswith("shoal_batch_rows{")] == [
                f'shoal_batch_rows{{model="n",version="1",worker="{worker.worker_id}"}} 1.0'
            ]

    simulate(scenario())


def test_a_new_version_is_served_as_the_live_one_but_for_what_is_given() -> None:
    async def scenario() -> None:
        async with world() as w:
            settings = msgspec.structs.replace(FINE, balancing="round_robin", coalesce=True, quantized=True)
            await w.control.load("m@1", settings, ALL)
            other = msgspec.structs.replace(FINE, coalesce=False)
            made = await w.control.load("m@2", other, ALL, given={"uri", "coalesce"})
            assert (made.settings.balancing, made.settings.coalesce) == ("round_robin", False)
            assert not made.settings.quantized  # what it is, it says itself
            assert (await w.control.load("n", FINE, ALL)).settings.balancing == FINE.balancing

    simulate(scenario())


def test_a_model_is_found_at_once_when_it_is_loaded_and_not_before() -> None:
    async def scenario() -> None:
        async with world() as w:
            loading = asyncio.ensure_future(w.control.load("m", FINE, ALL))
            await asyncio.sleep(LOADS_IN / 2)
            with pytest.raises(ModelNotFound):
                await w.ask()
            await loading
            assert await w.ask() == 1
            model = w.overview.models().models[-1]
            assert (model.ready, model.placement, model.requests) == (True, "all", 1)
            assert [spec.name for spec in model.inputs] == ["x"]

    simulate(scenario())


@pytest.mark.parametrize("settings", [BROKEN, ModelConfig(uri="echo", resources=ResourceConfig(cpus=10_000))])
def test_a_load_that_fails_says_why_and_leaves_everything_as_it_was(settings: ModelConfig) -> None:
    async def scenario() -> None:
        store = MemoryStore()
        async with world(store=store) as w:
            with pytest.raises(ModelLoadFailed, match=r"w1.*(weights are missing|it needs 10000)"):
                await w.control.load("m", settings, ALL)
            assert not w.replicas("m@1")
            assert "m" not in w.fleet.registry
            assert store.load() == {}
            await w.control.load("m", FINE, ALL)  # the name is free

    simulate(scenario())


def test_a_load_whose_client_goes_away_ends_in_order() -> None:
    async def scenario() -> None:
        async with world() as w:
            loading = asyncio.ensure_future(w.control.load("m", FINE, ALL))
            await asyncio.sleep(LOADS_IN / 2)
            loading.cancel()
            await asyncio.sleep(LOADS_IN)
            assert await w.ask() == 1

    simulate(scenario())


def test_one_model_is_changed_by_one_at_a_time() -> None:
    async def scenario() -> None:
        async with world() as w:
            loading = asyncio.ensure_future(w.control.load("m", FINE, ALL))
            await asyncio.sleep(0)
            with pytest.raises(Conflict, match="is being changed already"):
                await w.control.load("m", FINE, ALL)
            await loading
            with pytest.raises(Conflict, match="there are two models called 'm'"):
                await w.control.load("m", FINE, ALL)

    simulate(scenario())


@pytest.mark.parametrize("ask_for", [("m", ModelNotFound), ("other", ModelNotFound), ("m@1x!", InvalidRequest)])
def test_unloading_what_is_not_there_names_it(ask_for: tuple[str, type[ShoalError]]) -> None:
    async def scenario() -> None:
        async with world(1) as w:
            with pytest.raises(ask_for[1]):
                await w.control.unload(ask_for[0])

    simulate(scenario())


def test_a_worker_that_joins_later_gets_what_shall_be_everywhere() -> None:
    async def scenario() -> None:
        async with world(1) as w:
            await w.control.load("m", FINE, ALL)
            await w.control.load("few", FINE, Placement(replicas=1))
            await w.add_worker("w2")
            await asyncio.sleep(LOADS_IN + 1)
            assert set(w.replicas("m@1").values()) == {"ready"}
            assert len(w.replicas("m@1")) == 2
            assert len(w.replicas("few@1")) == 1

    simulate(scenario())


def test_a_lost_replica_is_replaced_and_one_that_cannot_be_loaded_is_not_tried_for_ever() -> None:
    async def scenario() -> None:
        async with world(2) as w:
            await w.control.load("m", FINE, Placement(replicas=1))
            w.fleet.crash(w.built[0].split()[0])
            await asyncio.sleep(30)
            assert [built.split()[0] for built in w.built] == ["w1", "w2"]
            assert await w.ask() == 1

    simulate(scenario())


def test_a_worker_that_refuses_is_left_alone_and_its_reason_is_shown() -> None:
    async def scenario() -> None:
        async with world(1) as w:
            await w.control.load("m", FINE, ALL)
            spec = w.fleet.registry.resolve("m")
            refusing = []

            def build(spec: ModelSpec, shard: int | None) -> Scripted:
                refusing.append(spec.id)
                raise ModelLoadFailed("there is no such class here")

            await w.fleet.add_worker("w2", build=build)
            await asyncio.sleep(120)
            assert refusing == [spec.id]
            (refusal,) = w.overview.model(spec.id).refusals
            assert refusal.reason == "there is no such class here"
            assert await w.ask() == 1

    simulate(scenario())


def test_a_worker_that_comes_back_with_a_model_that_was_unloaded_meanwhile_lets_it_go() -> None:
    async def scenario() -> None:
        async with world(2) as w:
            await w.control.load("m", FINE, ALL)
            w.fleet.network.faults("w1").cut()  # it calls again at once
            await w.control.unload("m")
            await asyncio.sleep(10)
            assert not w.replicas("m@1")
            assert len(w.built) == 2
            assert w.closed == ["m@1", "m@1"]
            with pytest.raises(ModelNotFound):
                await w.ask()

    simulate(scenario())


def test_what_was_changed_is_there_after_a_restart() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        async with world(1, store=store) as w:
            await w.control.load("m@1", FINE, ALL)
            await w.control.load("m@2", FINE, ALL)
            w.control.promote("m@2")
            w.control.point("chat", {"m@1": 9, "m@2": 1})
        async with world(1, store=store) as w:
            await asyncio.sleep(LOADS_IN + 1)
            assert await w.ask() == 2
            assert {await w.ask("chat") for _ in range(50)} == {1, 2}
            assert w.overview.models().aliases == {"chat": {"m@1": 9, "m@2": 1}}

    simulate(scenario())


def test_a_change_that_cannot_be_stored_is_not_made() -> None:
    class FullDisk(MemoryStore):
        def save(self, changes: Mapping[str, bytes | None]) -> None:
            raise ShoalError("the disk is full")

    async def scenario() -> None:
        async with world(1, store=FullDisk()) as w:
            with pytest.raises(ShoalError, match="disk is full"):
                await w.control.load("m", FINE, ALL)
            with pytest.raises(ShoalError, match="disk is full"):
                w.control.point("chat", {"numbers": 1})
            assert not w.replicas("m@1")
            for name in ("m", "chat"):
                with pytest.raises(ModelNotFound):
                    await w.ask(name)

    simulate(scenario())


def test_a_canary_gets_its_share_and_the_counts_show_it() -> None:
    async def scenario() -> None:
        async with world() as w:
            await w.control.load("m@1", FINE, ALL)
            await w.control.load("m@2", FINE, ALL)
            w.control.point("chat", {"m@1": 9, "m@2": 1})
            await asyncio.gather(*(w.ask("chat") for _ in range(500)), return_exceptions=True)
            requests = {model.version: model.requests for model in w.overview.models().models if model.name == "m"}
            assert sum(requests.values()) == 500
            assert 25 < requests["2"] < 90
            w.control.unpoint("chat")
            with pytest.raises(ModelNotFound, match="there is no alias 'chat'"):
                w.control.unpoint("chat")

    simulate(scenario())


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("m@2", ModelNotFound, "no model 'm@2'"),
        ("m", InvalidRequest, "give NAME@VERSION"),
        ("numbers@1", Conflict, "'numbers@1' is ready nowhere"),
    ],
)
def test_only_a_version_that_is_ready_takes_over(name: str, error: type[ShoalError], says: str) -> None:
    async def scenario() -> None:
        async with fleet() as f:
            await f.add_worker("w1", loads_in=1000.0)
            await asyncio.sleep(1)
            with pytest.raises(error, match=says):
                f.coordinator.control.promote(name)

    simulate(scenario())


def test_a_request_may_be_tried_again_elsewhere_though_its_model_is_being_unloaded() -> None:
    async def scenario() -> None:
        async with world(2) as w:
            await w.control.load("m", FINE, ALL)
            asked = asyncio.ensure_future(w.ask())
            await asyncio.sleep(STEP / 2)
            (busy,) = [worker for worker in w.overview.workers() if worker.in_flight]
            unloading = asyncio.ensure_future(w.control.unload("m"))
            await asyncio.sleep(STEP / 4)
            w.fleet.crash(busy.address.partition(":")[0])
            assert await asked == 1
            await unloading
            assert list(w.replicas("m@1")) == []

    simulate(scenario())


def test_an_unload_waits_for_what_runs_and_not_for_ever() -> None:
    async def scenario() -> None:
        async with fleet(1, drain_timeout=5.0) as f:
            asked = asyncio.ensure_future(f.ask(100))  # two seconds
            endless = asyncio.ensure_future(f.ask(10_000))
            await asyncio.sleep(0.1)
            await f.coordinator.control.unload("numbers")
            assert len((await asked).split()) == 100
            assert not endless.done()
            endless.cancel()
            with pytest.raises(ModelNotFound):
                await f.ask()
            await asyncio.gather(endless, return_exceptions=True)

    simulate(scenario())


def test_a_drained_worker_gets_nothing_new_and_no_models() -> None:
    async def scenario() -> None:
        async with world(2) as w:
            await w.control.load("m", FINE, ALL)
            drained = w.overview.workers()[0].id
            w.control.drain(drained)
            await asyncio.sleep(1)
            states = {worker.id: worker.state for worker in w.overview.workers()}
            assert states[drained] == "draining"
            assert await w.ask() == 1
            await w.control.load("m@2", FINE, ALL)
            assert drained not in w.replicas("m@2")
            with pytest.raises(NotFound, match="no worker 'nobody'"):
                w.control.drain("nobody")

    simulate(scenario())


def test_each_shard_gets_its_replicas_on_other_workers() -> None:
    async def scenario() -> None:
        async with world(3) as w:
            sharded = ModelConfig(uri="models:Fine", shards=ShardConfig(count=3))
            loading = asyncio.ensure_future(w.control.load("m", sharded, Placement(replicas=1)))
            await asyncio.sleep(0.5)
            assert {built.split()[0] for built in w.built} == {"w1", "w2", "w3"}
            assert sorted(built.split()[1] for built in w.built) == ["m@1#0", "m@1#1", "m@1#2"]
            loading.cancel()

    simulate(scenario())


def test_a_named_worker_gets_it_and_an_unknown_one_is_named() -> None:
    async def scenario() -> None:
        async with world(2) as w:
            ids = [worker.id for worker in w.overview.workers()]
            await w.control.load("m", FINE, Placement(workers=(WorkerId(ids[1]),)))
            assert list(w.replicas("m@1")) == [ids[1]]
            with pytest.raises(InvalidRequest, match="there is no worker 'nobody'"):
                await w.control.load("m@2", FINE, Placement(workers=(WorkerId("nobody"),)))

    simulate(scenario())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (ModelConfig(uri="echo", preproc=("polish",)), "there is no step 'polish'"),
        (
            ModelConfig(uri="echo", postproc=({"softmax": {}, "top_k": {"k": 1}},)),
            "a step is one name with its options",
        ),
        (ModelConfig(uri="echo", inputs=(TensorConfig(name="x", dtype="FP8", shape=(1,)),)), r"inputs\[0\]: .* FP8"),
    ],
)
def test_settings_that_no_worker_could_load_are_the_operators_to_mend(settings: ModelConfig, says: str) -> None:
    async def scenario() -> None:
        async with world(1) as w:
            with pytest.raises(InvalidRequest, match=says):
                await w.control.load("m", settings, ALL)
            assert not w.built

    simulate(scenario())


def test_arrays_that_do_not_fit_never_reach_a_worker() -> None:
    async def scenario() -> None:
        async with world(1) as w:
            await w.control.load("m", FINE, ALL)
            request = Infer(RequestId("r"), ModelName("m"), {"x": np.zeros((1, 2), np.float32)})
            with pytest.raises(InvalidRequest, match=r"input 'x' must have shape \[-1\], not \[1, 2\]"):
                await w.fleet.coordinator.plane.infer(request, timeout=5)
            assert w.overview.models().models[-1].requests == 0

    simulate(scenario())


def test_a_worker_without_a_way_to_build_takes_only_its_own() -> None:
    async def scenario() -> None:
        async with fleet(1) as f:
            with pytest.raises(ModelLoadFailed, match="takes no other models than its own"):
                await f.coordinator.control.load("m", FINE, ALL)
            with pytest.raises((ModelNotFound, ModelUnavailable)):
                await f.look_up([1])

    simulate(scenario())
