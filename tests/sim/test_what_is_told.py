"""What a coordinator tells people: its metrics by model, why a model is not ready, and a log of what truly happened."""

from __future__ import annotations

import asyncio
import logging

import msgspec
import pytest
from sim.simulation import COORDINATOR, MODEL, NumbersRuntime, fleet, simulate

from shoal.client import AsyncClient
from shoal.errors import EngineFailed, ShoalError
from shoal.types import ModelName, ModelState


def failed(reason: str) -> NumbersRuntime:
    runtime = NumbersRuntime(loads_in=1e9)
    runtime.info = msgspec.structs.replace(runtime.info, state=ModelState.FAILED, reason=reason)
    return runtime


def test_a_request_to_an_alias_counts_under_the_model_that_it_leads_to() -> None:
    async def scenario() -> None:
        async with fleet(1) as f:
            await f.ask(model=ModelName("default"))
            with pytest.raises(ShoalError):
                await f.ask(model=ModelName("whale"))
            metrics = f.coordinator.metrics.render().decode()
            assert f'shoal_requests_total{{model="{MODEL}",outcome="ok"}} 1.0' in metrics
            assert 'shoal_requests_total{model="unknown",outcome="model_not_found"} 1.0' in metrics
            assert 'model="unknown",outcome="ok"' not in metrics

    simulate(scenario())


def test_a_model_that_no_worker_could_load_has_failed_and_says_why() -> None:
    async def scenario() -> None:
        async with fleet() as f:
            await f.add_worker("w1", runtime=failed("no such file"))
            await asyncio.sleep(1)
            async with AsyncClient(COORDINATOR, network=f.network.at("client")) as client:
                (model,) = await client.models()
                assert (model.state, model.reason) == (ModelState.FAILED, "no such file")
                await f.add_worker("w2", loads_in=1e9)  # another one may succeed
                await asyncio.sleep(1)
                (model,) = await client.models()
                assert (model.state, model.reason) == (ModelState.LOADING, "no such file")

    simulate(scenario())


def test_a_coordinator_that_has_stopped_takes_no_worker_and_warns_of_none(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with fleet(2) as f:
            caplog.clear()
            with caplog.at_level(logging.INFO):
                await f.coordinator.stop()
                await asyncio.sleep(10)
            told = [record.getMessage() for record in caplog.records]
            assert not [text for text in told if "registered" in text or "<" in text]
            assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

    simulate(scenario())


def test_a_lost_worker_is_told_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with fleet(1) as f:
            f.crash("w1")
            await asyncio.sleep(0.1)

    simulate(scenario())
    (told,) = [record.getMessage() for record in caplog.records if "is lost" in record.getMessage()]
    assert told.startswith("worker-w1")
    assert "the connection broke" in told or "closed the connection" in told


@pytest.mark.parametrize("workers", [1, 2])
def test_as_many_further_attempts_are_told_as_are_made(caplog: pytest.LogCaptureFixture, workers: int) -> None:
    attempts: list[int] = []

    async def scenario() -> None:
        async with fleet() as f:
            for number in range(workers):
                await f.add_worker(f"w{number}", breaks_at=0)
            await f.until_ready(workers)
            with pytest.raises(EngineFailed):
                await f.ask()
            attempts.extend(runtime.steps for runtime in f.runtimes.values())

    simulate(scenario())
    told = [record.getMessage() for record in caplog.records if "is tried again with" in record.getMessage()]
    assert len(told) == sum(attempts) - 1
