"""``shoal models``, ``shoal workers`` and ``shoal infer``, typed against a running Shoal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import Command, shoal, until_ready

from shoal import Client, ShoalError

MODULE = """
import numpy as np
from shoal.types import TensorSpec

class Times1:
    inputs = (TensorSpec("x", "FP32", (-1, 2)),)
    factor = 1

    def run(self, tensors):
        return {"y": tensors["x"] * self.factor}

class Times2(Times1):
    factor = 2

class Broken:
    def __init__(self):
        raise RuntimeError("its weights are missing")
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """In which Shoal finds the models of this test, and may load some of them."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "test_only_models.py").write_text(MODULE)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
    allow = "test_only_models:Times2,test_only_models:Broken"
    return {"PYTHONPATH": path, "SHOAL_WORKER_ALLOW": allow}


@contextmanager
def serving(*arguments: str, environment: dict[str, str]) -> Iterator[tuple[str, Command]]:
    with shoal("serve", *arguments, "--listen-port", "0", environment=environment) as command:
        address = command.wait_for(r"coordinator serves on http://(\S+)")[1]
        until_ready(f"http://{address}", command)
        yield address, command


@pytest.fixture(scope="module")
def address(environment: dict[str, str]) -> Iterator[str]:
    arguments = ("m=test_only_models:Times1", "echo", "--workers", "2")
    with serving(*arguments, environment=environment) as (address, command):
        command.wait_for(r"m ready", times=2)
        yield address


def typed(address: str, *arguments: str, code: int = 0) -> str:
    """What the command prints on standard output, or on standard error where it is to fail."""
    command, *rest = arguments
    done = subprocess.run(
        [sys.executable, "-m", "shoal", command, "--address", address, *rest],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done
    assert not (done.stdout if code else done.stderr)
    return done.stderr if code else done.stdout


def as_json(address: str, command: str, *arguments: str) -> Any:
    return json.loads(typed(address, command, "--json", *arguments))


class Clients:
    """Threads that ask without a pause and count what they get."""

    def __init__(self, address: str, model: str, threads: int) -> None:
        self.answers: Counter[float | str] = Counter()
        self._address = address
        self._model = model
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(threads)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _ask(self) -> None:
        with Client(self._address) as client:
            while not self._stop.is_set():
                try:
                    outputs = client.infer(self._model, {"x": np.ones((1, 2), np.float32)})
                    self.answers[float(outputs["y"][0, 0])] += 1
                except ShoalError as error:
                    self.answers[error.message] += 1


def test_a_model_takes_over_from_another_under_load_and_no_request_fails(address: str) -> None:
    with Clients(address, "m", threads=4) as clients:
        assert "m@2 is loaded on 2 workers" in typed(address, "models", "load", "m@2", "test_only_models:Times2")
        assert "m@2 is live" in typed(address, "models", "promote", "m@2")
        assert "m@1: unloaded" in typed(address, "models", "unload", "m@1")
    assert set(clients.answers) == {1.0, 2.0}
    served = {model["version"]: model for model in as_json(address, "models")["models"] if model["name"] == "m"}
    assert list(served) == ["2"]
    assert served["2"]["requests"] == clients.answers[2.0]
    assert "there is no model 'm@1'" in typed(address, "infer", "m@1", "x=[1,2]", code=1)


def test_what_cannot_be_loaded_says_why_and_changes_nothing(address: str) -> None:
    before = as_json(address, "models")
    said = typed(address, "models", "load", "broken", "test_only_models:Broken", code=1)
    assert "cannot load test_only_models:Broken: RuntimeError: its weights are missing" in said
    said = typed(address, "models", "load", "system", "os:system", code=1)
    assert "needs 'os:system', which worker.allow does not name" in said
    assert as_json(address, "models") == before


def test_an_alias_splits_its_requests_and_is_deleted(address: str) -> None:
    typed(address, "models", "load", "canary", "echo")
    assert "chat leads to echo (9), canary (1)" in typed(address, "models", "alias", "chat", "echo=9", "canary=1")
    before = {model["name"]: model["requests"] for model in as_json(address, "models")["models"]}
    with Client(address) as client:
        for _ in range(300):
            client.infer("chat", {"input": np.zeros(1)})
    after = {model["name"]: model["requests"] for model in as_json(address, "models")["models"]}
    assert 10 <= after["canary"] - before["canary"] <= 60
    assert after["echo"] - before["echo"] + after["canary"] - before["canary"] == 300
    assert "point it elsewhere first" in typed(address, "models", "unload", "canary", code=1)
    typed(address, "models", "alias", "chat", "--delete")
    typed(address, "models", "unload", "canary")


def test_inputs_are_json_or_files_and_outputs_a_table_or_json(address: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[1.5, 2.5]], np.float32))
    (tmp_path / "fish").write_bytes(b"a \xff herring")
    assert "[[1.5 2.5]]" in typed(address, "infer", "echo", f"input=@{tmp_path}/x.npy")
    found = as_json(address, "infer", "echo", f"input=@{tmp_path}/fish")["outputs"]["output"]
    assert found == {"datatype": "BYTES", "shape": [], "data": "a \\xff herring"}
    texts = as_json(address, "infer", "echo", 'input=[["a"], ["b"]]')["outputs"]["output"]
    assert texts == {"datatype": "BYTES", "shape": [2, 1], "data": [["a"], ["b"]]}
    twice = as_json(address, "infer", "m", "x=[1, 2]")["outputs"]["y"]  # of the type and shape that the model takes
    assert (twice["datatype"], twice["shape"]) == ("FP32", [1, 2])


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["infer", "m", "x=[1, 2, 3]"], 1, "input 'x' must have shape [-1, 2], not [1, 3]"),
        (["infer", "m", "z=[1, 2]"], 1, "input 'x' is missing"),
        (["infer", "m", "x=fish"], 2, "is not JSON"),
        (["infer", "m", "x=[[1], [1, 2]]"], 2, "is no array"),
        (["infer", "m", "x"], 2, "is not NAME=VALUE"),
        (["infer", "m", "x=@no/such/file"], 2, "No such file"),
        (["models", "alias", "chat"], 2, "give models for the alias, or --delete"),
        (["models", "alias", "chat", "m=many"], 2, "a weight is a whole number"),
        (["models", "promote", "m"], 1, "give NAME@VERSION"),
        (["workers", "drain", "nobody"], 1, "there is no worker 'nobody'"),
    ],
)
def test_what_is_wrong_is_said_on_standard_error(address: str, arguments: list[str], code: int, says: str) -> None:
    assert says in typed(address, *arguments, code=code)


def test_without_a_coordinator_the_address_is_named() -> None:
    assert "no coordinator answers at 127.0.0.1:1" in typed("127.0.0.1:1", "models", code=1)


def test_a_drained_worker_leaves(environment: dict[str, str]) -> None:
    with serving("echo", "--workers", "2", environment=environment) as (address, command):
        command.wait_for(r"echo ready", times=2)
        workers = [worker["id"] for worker in as_json(address, "workers")["workers"]]
        assert len(workers) == 2
        assert "is draining" in typed(address, "workers", "drain", workers[0])
        command.wait_for(rf"{workers[0]} left: ")
        assert "echo" in typed(address, "models")


def test_changes_survive_a_restart_and_one_coordinator_owns_them(environment: dict[str, str], tmp_path: Path) -> None:
    kept = environment | {"SHOAL_REGISTRY_URL": f"embedded://{tmp_path}/registry.db"}
    arguments = ("m=test_only_models:Times1", "echo", "--workers", "1")
    with serving(*arguments, environment=kept) as (address, _):
        typed(address, "models", "load", "m@2", "test_only_models:Times2")
        typed(address, "models", "promote", "m@2")
        typed(address, "models", "alias", "twice", "m@2")
        typed(address, "models", "unload", "echo")
        with shoal("serve", "echo", "--listen-port", "0", environment=kept) as second:
            assert second.process.wait(60) == 2
            second.wait_for("another coordinator owns the registry")
    with serving(*arguments, environment=kept) as (address, command):
        command.wait_for("m ready, m ready")
        assert as_json(address, "infer", "twice", "x=[1, 2]")["outputs"]["y"]["data"] == [[2, 4]]
        assert as_json(address, "infer", "m", "x=[1, 2]")["outputs"]["y"]["data"] == [[2, 4]]
        assert {model["name"] for model in as_json(address, "models")["models"]} == {"m"}
