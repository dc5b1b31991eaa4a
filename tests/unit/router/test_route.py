from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from unit.load_balancer.fakes import FakeWorker

from shoal.config import ModelConfig, ShardConfig
from shoal.errors import ModelUnavailable, Overloaded, ShoalError
from shoal.load_balancer import Health, Outcome, Pool, Replica
from shoal.messages import ModelInfo
from shoal.model_registry import ModelSpec
from shoal.router import Reason, RoutingDecision, route
from shoal.types import ModelId, ModelKind, ModelName, ModelPart, ModelState, WorkerId, WorkerState

MODEL = ModelId(ModelName("fish"))
READY, GONE = WorkerState.READY, WorkerState.GONE
LOADING, FAILED = ModelState.LOADING, ModelState.FAILED


class Fleet:
    def __init__(self, replicas: Sequence[Replica], *, zone: str = "", shard: int | None = None) -> None:
        self._replicas = replicas
        self._part = ModelPart(MODEL, shard)
        self._pool = Pool(zone=zone, chance=random.Random(0))
        for replica in replicas:
            if replica.worker.state is not GONE:
                self._pool.add(replica)

    def pool(self, part: ModelPart) -> Pool | None:
        return self._pool if part == self._part and self._replicas else None

    def replicas(self, part: ModelPart) -> Sequence[Replica]:
        return self._replicas if part == self._part else ()


def on(
    worker: str,
    model: ModelState = ModelState.READY,
    state: WorkerState = READY,
    *,
    in_flight: int = 0,
    reason: str = "",
    zone: str = "",
    suspect: bool = False,
) -> Replica:
    info = ModelInfo(MODEL.name, ModelKind.GENERATE, model, reason="" if state is GONE else reason)
    fake = FakeWorker(WorkerId(worker), 4, in_flight, state=state, reason=reason, zone=zone, suspect=suspect)
    return Replica(fake, info)


def decide(
    replicas: Sequence[Replica],
    *,
    excluded: Sequence[str] = (),
    lost: Sequence[str] = (),
    failing: Sequence[str] = (),
    zone: str = "",
    shard: int | None = None,
    **more: object,
) -> RoutingDecision:
    health = Health()
    for worker in lost:
        health.connection_lost(WorkerId(worker), 0.0)
    for worker in [*failing] * 3:
        health.end(health.begin(WorkerId(worker), ModelPart(MODEL, shard), 0.0), Outcome.FAILURE, 0.0)
    return route(
        ModelSpec(name=MODEL.name, kind=ModelKind.GENERATE),
        fleet=Fleet(replicas, zone=zone, shard=shard),
        health=health,
        now=0.0,
        shard=shard,
        excluded={WorkerId(worker) for worker in excluded},
        **more,  # type: ignore[arg-type]
    )


def test_a_request_goes_to_a_worker_that_has_the_model_ready() -> None:
    decision = decide([on("a", LOADING), on("b", in_flight=2), on("c", in_flight=1)])
    assert decision == RoutingDecision(MODEL, WorkerId("c"), "least_connections", Reason.POLICY, candidates=2)


@pytest.mark.parametrize(
    ("replicas", "asked", "worker", "reason"),
    [
        pytest.param([on("a"), on("b", FAILED), on("c", state=GONE)], {}, "a", "only_candidate", id="no choice"),
        pytest.param([on("a"), on("b", in_flight=3)], {"excluded": ["a"]}, "b", "retry", id="one was tried"),
        pytest.param([on("a"), on("b", in_flight=3)], {"lost": ["a"]}, "b", "only_candidate", id="one is ejected"),
        pytest.param(
            [on("a", zone="e", in_flight=3), on("b", zone="w")], {"zone": "e"}, "a", "same_zone", id="its own zone"
        ),
        pytest.param(
            [on("a", zone="e", in_flight=4), on("b", zone="w")], {"zone": "e"}, "b", "other_zone", id="its zone is full"
        ),
        pytest.param([on("a", suspect=True), on("b", in_flight=4)], {}, "a", "suspect", id="only a silent one"),
        pytest.param([on("a"), on("b", in_flight=4)], {"failing": ["a"]}, "a", "ejected", id="only one that failed"),
        pytest.param([on("a"), on("b")], {"instead_of": ModelId(ModelName("x"))}, "a", "fallback_model", id="fallback"),
    ],
)
def test_the_decision_says_why(replicas: list[Replica], asked: dict[str, object], worker: str, reason: str) -> None:
    decision = decide(replicas, **asked)  # type: ignore[arg-type]
    assert (decision.worker_id, decision.reason) == (worker, reason)
    assert decision.zone == next(replica.worker.zone for replica in replicas if replica.worker_id == worker)
    assert decision.instead_of == asked.get("instead_of")


def test_the_policy_is_the_models_own() -> None:
    spec = ModelSpec(name=MODEL.name, kind=ModelKind.GENERATE, settings=ModelConfig(balancing="round_robin"))
    fleet = Fleet([on("a", in_flight=3), on("b")])
    chosen = [route(spec, fleet=fleet, health=Health(), now=0.0) for _ in range(4)]
    assert {decision.policy for decision in chosen} == {"round_robin"}
    assert [decision.worker_id for decision in chosen] == list("abab")


def test_each_shard_has_replicas_of_its_own() -> None:
    assert decide([on("a")], shard=2).shard == 2
    with pytest.raises(ModelUnavailable, match="shard 1 of model 'fish' is ready nowhere: a is loading it"):
        decide([on("a", LOADING)], shard=1)


@pytest.mark.parametrize(
    ("replicas", "excluded", "lost", "error", "says"),
    [
        pytest.param([], "", "", ModelUnavailable, "no worker has it", id="nobody has it now"),
        pytest.param([on("a", LOADING)], "", "", ModelUnavailable, "a is loading it", id="it is loading"),
        pytest.param(
            [on("a", state=WorkerState.STARTING)], "", "", ModelUnavailable, "a is loading it", id="its worker starts"
        ),
        pytest.param(
            [on("a", FAILED, reason="no such file")],
            "",
            "",
            ModelUnavailable,
            "a could not load it: no such file",
            id="it could not be loaded",
        ),
        pytest.param(
            [on("a", state=WorkerState.DRAINING)], "", "", ModelUnavailable, "a is draining", id="its worker leaves"
        ),
        pytest.param(
            [on("a", state=GONE, reason="its connection ended"), on("b", LOADING)],
            "a",
            "a",
            ModelUnavailable,
            "a has gone: its connection ended; b is loading it",
            id="one worker has gone and the other is not ready",
        ),
        pytest.param([on("a")], "a", "", ModelUnavailable, "a was tried already", id="all have been tried"),
        pytest.param(
            [on("a")], "", "a", ModelUnavailable, "a failed and is left alone for a while", id="all are ejected"
        ),
        pytest.param([on("a", in_flight=4)], "", "", Overloaded, "is full (1 of 1)", id="all are full"),
        pytest.param(
            [on("a", state=WorkerState.OVERLOADED), on("b", LOADING)],
            "",
            "",
            Overloaded,
            "is full (1 of 2)",
            id="the only ready one is overloaded",
        ),
        pytest.param(
            [on("a"), on("b", in_flight=4)], "a", "", Overloaded, "is full (1 of 2)", id="those not tried are full"
        ),
        pytest.param(
            [on(f"w{i}", LOADING) for i in range(1000)],
            "",
            "",
            ModelUnavailable,
            "w4 is loading it; and 995 more workers",
            id="a large fleet is not listed whole",
        ),
    ],
)
def test_without_a_worker_the_error_says_why(
    replicas: Sequence[Replica], excluded: str, lost: str, error: type[ShoalError], says: str
) -> None:
    with pytest.raises(error) as caught:
        decide(replicas, excluded=excluded, lost=lost)
    assert type(caught.value) is error
    assert caught.value.message.endswith(says) or says in caught.value.message
    assert caught.value.retry_after == 1.0


def test_silent_workers_are_left_out_on_demand() -> None:
    with pytest.raises(ModelUnavailable, match="a is silent"):
        decide([on("a", suspect=True)], suspects=False)


def test_a_model_in_shards_is_not_found_under_no_shard() -> None:
    settings = ModelConfig(shards=ShardConfig(count=2))
    spec = ModelSpec(name=MODEL.name, kind=ModelKind.TENSOR, settings=settings)
    with pytest.raises(ModelUnavailable, match="no worker has it"):
        route(spec, fleet=Fleet([on("a")], shard=0), health=Health(), now=0.0)
