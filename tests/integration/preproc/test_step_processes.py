"""Real step processes that raise, crash and hang."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from shoal.config import ModelConfig
from shoal.errors import DeadlineExceeded, EngineFailed, ModelLoadFailed, PayloadTooLarge
from shoal.messages import LoadModel, LoadSteps, RunSteps
from shoal.preproc import host
from shoal.preproc.pool import StepPool
from shoal.preproc.process import ChildStepProcess
from shoal.telemetry.engine_metrics import EngineMetrics
from shoal.types import FIRST_VERSION, ModelId, ModelName, StepSpec, Tensors
from shoal.worker.loading import load_model

MakePool = Callable[..., Awaitable[StepPool]]


@pytest_asyncio.fixture
async def make_pool(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MakePool]:
    """Makes pools of steps from ``user_steps.py``, and checks that they leave no process behind."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    pools: list[StepPool] = []

    async def make(function: str, *, size: int = 1, timeout: float = 30.0, **options: object) -> StepPool:
        step = StepSpec(f"user_steps:{function}", options)
        command = LoadSteps((step,), (step,), None, timeout)
        pool = StepPool(lambda: ChildStepProcess.start("steps", command), size=size, timeout=timeout)
        pools.append(pool)
        await pool.start()
        return pool

    yield make
    for pool in pools:
        await pool.close()
    assert step_processes() == []


def step_processes() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "shoal.preproc.host" in child.cmdline()]


async def ask(pool: StepPool, act: str = "", x: int = 1) -> Tensors:
    tensors: Tensors = {"x": np.array([x]), "act": np.array([act.encode()], object)}
    async with asyncio.timeout(60):
        return await pool.run(RunSteps("preproc", tensors))


async def test_steps_run_in_processes_of_one_thread_each(make_pool: MakePool) -> None:
    pool = await make_pool("behave", size=2)
    answers = await asyncio.gather(*(ask(pool, x=number) for number in range(20)))
    assert [answer["x"].item() for answer in answers] == [2 * number for number in range(20)]
    assert os.getpid() not in {answer["pid"].item() for answer in answers}
    assert {answer["threads"].item() for answer in answers} == {1}


async def test_a_step_that_raises_is_named_and_its_process_goes_on(make_pool: MakePool) -> None:
    pool = await make_pool("behave")
    before = await ask(pool)
    with pytest.raises(EngineFailed, match="step 'user_steps:behave' failed: ValueError: no fish today"):
        await ask(pool, "raise")
    assert (await ask(pool))["pid"] == before["pid"]


async def test_a_request_whose_process_dies_runs_again(make_pool: MakePool, tmp_path: Path) -> None:
    pool = await make_pool("behave")
    before = await ask(pool)
    after = await ask(pool, f"once {tmp_path / 'mark'}", x=4)
    assert after["x"] == 8
    assert after["pid"] != before["pid"]


async def test_a_step_that_crashes_costs_its_own_request_alone(make_pool: MakePool) -> None:
    pool = await make_pool("behave", size=2)
    others = [asyncio.ensure_future(ask(pool, x=number)) for number in range(10)]
    with pytest.raises(EngineFailed, match="2 processes died of the steps"):
        await ask(pool, "crash")
    assert [(await other)["x"].item() for other in others] == [2 * number for number in range(10)]
    assert (await ask(pool))["x"] == 2


@pytest.mark.parametrize("function", ["behave", "hold_the_lock"])
async def test_a_step_that_hangs_is_killed(make_pool: MakePool, function: str) -> None:
    pool = await make_pool(function, timeout=0.5)
    (stuck,) = step_processes()
    with pytest.raises(DeadlineExceeded, match=r"did not end within 0\.5 s"):
        await ask(pool, "hang")
    psutil.wait_procs([stuck], timeout=10)
    assert not stuck.is_running()


async def test_a_stuck_process_ends_by_itself_when_nobody_is_left_to_kill_it(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ChildStepProcess, "kill", lambda self: None)
    pool = await make_pool("hold_the_lock", timeout=0.1)
    (stuck,) = step_processes()
    with pytest.raises(DeadlineExceeded):
        await ask(pool)
    _, alive = psutil.wait_procs([stuck], timeout=host.GRACE + 10)
    assert not alive


@pytest.mark.parametrize(
    ("function", "options", "reason"),
    [
        ("missing", {}, "step 'user_steps:missing': AttributeError"),
        ("broken", {}, "step 'user_steps:broken': TypeError: .*depth"),
        ("DiesWhenMade", {}, "killed by SIGKILL before its steps were made"),
    ],
)
async def test_steps_that_cannot_be_made_are_an_error_of_the_model(
    make_pool: MakePool, function: str, options: dict[str, object], reason: str
) -> None:
    with pytest.raises(ModelLoadFailed, match=reason):
        await make_pool(function, **options)


async def test_a_model_whose_pipeline_is_not_complete_leaves_no_process(make_pool: MakePool) -> None:
    settings = ModelConfig(uri="user_steps:Model", preproc=("normalize_text",))
    command = LoadModel(ModelName("fish"), FIRST_VERSION, msgspec.to_builtins(settings), "", 1, 256, 1)
    metrics = EngineMetrics(ModelId(command.name), CollectorRegistry())
    with pytest.raises(ModelLoadFailed, match="the engine takes 'x', which nothing makes"):
        await load_model(msgspec.structs.replace(command, step_processes=2), lambda reason: None, metrics)
    assert step_processes() == []


async def test_what_cannot_travel_is_the_steps_own_failure(make_pool: MakePool) -> None:
    pool = await make_pool("writes_text")
    with pytest.raises(EngineFailed, match="what was computed cannot be sent"):
        await pool.run(RunSteps("preproc", {"x": np.arange(3)}))


async def test_what_is_too_large_for_the_wire_is_refused_and_the_process_goes_on(make_pool: MakePool) -> None:
    pool = await make_pool("broken", depth=1)
    huge = {"x": np.zeros(70 * 2**20, np.uint8)}
    with pytest.raises(PayloadTooLarge):
        await pool.run(RunSteps("preproc", huge))
    small = await pool.run(RunSteps("preproc", {"x": np.arange(3)}))
    assert small["x"].tolist() == [0, 1, 2]
