from __future__ import annotations

from typing import Any

import pytest

from shoal.cluster import Drop, Have, Member, choose, plan
from shoal.config import ModelConfig, ResourceConfig, ShardConfig
from shoal.errors import ConfigError, ModelLoadFailed
from shoal.messages import Load, ModelInfo, Register, Resources
from shoal.model_registry import ModelSpec, Placement, Registry, make_spec
from shoal.types import ModelId, ModelKind, ModelName, ModelPart, ModelState, Version, WorkerId, WorkerState

READY, LOADING, FAILED = ModelState.READY, ModelState.LOADING, ModelState.FAILED
GIB = 2**30
ALL = Placement()


def spec(name: str = "m@1", *, cpus: int = 0, memory: int = 0, shards: int = 0) -> ModelSpec:
    resources = ResourceConfig(cpus=cpus, memory_bytes=memory * GIB)
    settings = ModelConfig(uri="x.onnx", resources=resources, shards=ShardConfig(count=shards) if shards else None)
    return make_spec(name, settings)


def info(name: str, state: ModelState = READY, shard: int | None = None) -> ModelInfo:
    model, _, version = name.partition("@")
    return ModelInfo(ModelName(model), ModelKind.TENSOR, state, version=Version(version), shard=shard)


def member(
    name: str,
    *models: ModelInfo,
    state: WorkerState = WorkerState.READY,
    busy: int = 0,
    cpus: int = 4,
    memory: int = 16,
) -> Member:
    resources = Resources(cpus, memory * GIB)
    registration = Register(WorkerId(name), f"instance of {name}", "host:1", 10, resources, state, models)
    made = Member(registration, 0.0, heartbeat=1.0)
    made.told_models = models
    made.told(Load(in_flight=busy), 0.0)
    return made


def chosen(spec: ModelSpec, placement: Placement, *members: Member, known: Registry | None = None) -> list[str]:
    orders = choose(spec, placement, members, known or Registry())
    return [order.worker_id if order.shard is None else f"{order.worker_id}#{order.shard}" for order in orders]


@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        (ALL, ["idle", "small", "busy"]),
        (Placement(replicas=2), ["idle", "small"]),
        (Placement(workers=(WorkerId("busy"),)), ["busy"]),
    ],
)
def test_those_with_the_most_free_places_come_first(placement: Placement, expected: list[str]) -> None:
    workers = [member("busy", busy=9), member("small", info("other@1"), busy=2), member("idle", busy=2)]
    assert chosen(spec(), placement, *workers) == expected


def test_a_worker_that_drains_gets_no_model() -> None:
    assert chosen(spec(), ALL, member("a"), member("b", state=WorkerState.DRAINING)) == ["a"]


def test_shards_spread_over_the_workers() -> None:
    workers = [member("a"), member("b"), member("c")]
    assert chosen(spec(shards=4), Placement(replicas=1), *workers) == ["a#0", "b#1", "c#2", "a#3"]
    assert chosen(spec(shards=2), ALL, *workers[:2]) == ["a#0", "b#0", "b#1", "a#1"]


@pytest.mark.parametrize(
    ("spec", "placement", "says"),
    [
        (
            spec(memory=12),
            ALL,
            "'m@1' does not fit on 2 workers: full has 6.0 of 16.0 GiB left for models",
        ),
        (spec(cpus=8), Placement(replicas=1), "full has 4 cores and it needs 8; free has 4 cores and it needs 8"),
        (spec(), Placement(replicas=3), "does not fit on 3 workers: there are 2 workers"),
    ],
)
def test_what_does_not_fit_names_what_is_missing(spec: ModelSpec, placement: Placement, says: str) -> None:
    known = Registry([make_spec("big@1", ModelConfig(uri="y.onnx", resources=ResourceConfig(memory_bytes=10 * GIB)))])
    with pytest.raises(ModelLoadFailed, match=says):
        chosen(spec, placement, member("full", info("big@1")), member("free"), known=known)


def test_needs_that_are_not_known_are_not_checked() -> None:
    assert chosen(spec(memory=12, cpus=8), ALL, member("a", cpus=0, memory=0)) == ["a"]
    assert chosen(spec(), ALL, member("a", info("other@1"), memory=1)) == ["a"]


@pytest.mark.parametrize(
    ("workers", "placement", "error", "says"),
    [
        ([], ALL, ModelLoadFailed, "there is no worker"),
        (
            ["a"],
            Placement(workers=(WorkerId("b"),)),
            ConfigError,
            "no worker 'b' that takes models; there are a",
        ),
    ],
)
def test_without_a_worker_there_is_no_choice(
    workers: list[str], placement: Placement, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        chosen(spec(), placement, *map(member, workers))


def registry(placement: Placement, **of: Any) -> Registry:
    made = Registry()
    made.add(spec(**of), placement)
    return made


def planned(registry: Registry, *members: Member, **more: Any) -> list[str]:
    return [
        f"drop {order.model} {order.worker_id}"
        if isinstance(order, Drop)
        else f"{order.worker_id}" + ("" if order.shard is None else f"#{order.shard}")
        for order in plan(registry, members, **more)
    ]


@pytest.mark.parametrize(
    ("placement", "expected"),
    [(ALL, ["new"]), (Placement(replicas=2), []), (Placement(replicas=3), ["new"])],
)
def test_only_replicas_that_are_missing_come(placement: Placement, expected: list[str]) -> None:
    workers = [member("a", info("m@1")), member("b", info("m@1", LOADING)), member("new")]
    assert planned(registry(placement), *workers) == expected


def test_only_those_that_were_named_get_it() -> None:
    named = registry(Placement(workers=(WorkerId("b"), WorkerId("gone"))))
    assert planned(named, member("a"), member("b")) == ["b"]


def test_a_replica_that_failed_is_made_up_for_elsewhere() -> None:
    workers = [member("a", info("m@1", FAILED)), member("b"), member("c")]
    assert planned(registry(Placement(replicas=1)), *workers) == ["b"]
    assert planned(registry(ALL), *workers) == ["b", "c"]


def test_who_refused_is_not_asked_again_until_its_process_is_another_one() -> None:
    part = ModelPart(ModelId(ModelName("m"), Version("1")))
    workers = [member("a"), member("b")]
    assert planned(registry(ALL), *workers, refused={("instance of a", part)}) == ["b"]
    assert planned(registry(Placement(replicas=1)), *workers, refused={("instance of a", part)}) == ["b"]
    assert planned(registry(ALL), *workers, refused={("an earlier instance of a", part)}) == ["a", "b"]


def test_a_worker_without_room_is_passed_over() -> None:
    assert planned(registry(ALL, memory=12), member("small", memory=8), member("large")) == ["large"]


def test_each_shard_has_its_own_replicas() -> None:
    workers = [member("a", info("m@1", shard=0)), member("b", info("m@1", shard=1))]
    assert planned(registry(Placement(replicas=1), shards=3), *workers) == ["a#2"]
    assert planned(registry(ALL, shards=2), *workers) == ["b#0", "a#1"]


def test_what_was_removed_goes_from_those_that_still_have_it_and_what_they_have_of_their_own_stays() -> None:
    made = Registry([spec("m@1"), spec("own@1")])
    made.remove([ModelId(ModelName("m"), Version("1"))])
    workers = [
        member("a", info("m@1"), info("own@1")),
        member("b", info("unknown@1")),
        member("c", info("m@1", shard=0), info("m@1", shard=1)),
        member("d", info("m@1"), state=WorkerState.DRAINING),
    ]
    assert planned(made, *workers) == ["drop m@1 a", "drop m@1 c"]


def test_a_plan_that_was_carried_out_is_empty() -> None:
    wanted = registry(Placement(replicas=2), shards=3)
    workers = [member(name) for name in "abc"]
    for order in plan(wanted, workers):
        assert isinstance(order, Have)
        (worker,) = [worker for worker in workers if worker.worker_id == order.worker_id]
        worker.told_models = (*worker.told_models, info("m@1", shard=order.shard))
    assert planned(wanted, *workers) == []
