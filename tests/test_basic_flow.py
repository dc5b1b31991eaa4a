"""The basic flow, with real processes: a coordinator, a worker, a request, its response."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from processes import Command, gone, shoal, until_ready

from shoal import Client, ShoalError

LISTENING = r"worker listens on (\S+)"
SERVING = r"coordinator serves on http://(\S+)"


def start_worker(stack: ExitStack, port: int = 0) -> tuple[str, Command]:
    command = stack.enter_context(shoal("worker", "--port", str(port), "--model", "echo"))
    return command.wait_for(LISTENING)[1], command


def start_coordinator(stack: ExitStack, worker: str) -> tuple[str, Command]:
    command = stack.enter_context(shoal("coordinator", "--listen-port", "0", "--worker", worker))
    return command.wait_for(SERVING)[1], command


@contextmanager
def pair() -> Iterator[tuple[str, Command, Command]]:
    """The address of a coordinator that is ready, and both commands."""
    with ExitStack() as stack:
        worker_address, worker = start_worker(stack)
        address, coordinator = start_coordinator(stack, worker_address)
        until_ready(f"http://{address}", coordinator)
        yield address, coordinator, worker


def test_a_request_goes_through_coordinator_and_worker_and_comes_back() -> None:
    sent = np.arange(12, dtype=np.float32).reshape(3, 4)
    with pair() as (address, _, _), Client(address) as client:
        received = client.infer("echo", {"input": sent})["output"]
        np.testing.assert_array_equal(received, sent)
        assert received.dtype == sent.dtype
        assert [model.name for model in client.models()] == ["echo"]


def test_the_coordinator_may_start_before_its_worker() -> None:
    with ExitStack() as stack:
        first, command = start_worker(stack)
        command.interrupt()  # now its port is known and free
        address, coordinator = start_coordinator(stack, first)
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"http://{address}/health/ready", timeout=5)
        start_worker(stack, int(first.rpartition(":")[2]))
        until_ready(f"http://{address}", coordinator)
        with Client(address) as client:
            assert client.infer("echo", {"input": np.array([b"fish"], dtype=object)})["output"][0] == b"fish"


def test_http_and_native_clients_share_the_port() -> None:
    with pair() as (address, _, _), Client(address) as client:
        client.infer("echo", {"input": np.zeros(1)})
        with urllib.request.urlopen(f"http://{address}/v1/models", timeout=5) as response:
            assert [model["id"] for model in json.load(response)["data"]] == ["echo"]
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as response:
            assert b'shoal_requests_total{model="echo",outcome="ok"} 1.0' in response.read()


COUNTER = """
from pathlib import Path

class Counter:
    def run(self, inputs):
        with Path(__file__).with_name("calls").open("a") as calls:
            calls.write("called\\n")
        return {"y": inputs["x"] * 2}
"""
COUNTED = """
models:
  kept: {uri: "counted:Counter", cache: {ttl: 60}}
  computed: {uri: "counted:Counter"}
cache: {url: "sqlite://FOLDER/answers.db"}
"""


class Counted:
    """Two models that double and count: one whose answers are kept, one whose answers are not."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        (folder / "counted.py").write_text(COUNTER)
        self._stack = stack
        self._calls = folder / "calls"
        self._config = ("--config", str(folder / "config.yaml"))
        (folder / "config.yaml").write_text(COUNTED.replace("FOLDER", str(folder)))
        path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
        worker = stack.enter_context(shoal("worker", "--port", "0", *self._config, environment={"PYTHONPATH": path}))
        self._worker = worker.wait_for(LISTENING)[1]

    def coordinator(self) -> tuple[str, Command]:
        arguments = ("coordinator", "--listen-port", "0", "--worker", self._worker, *self._config)
        command = self._stack.enter_context(shoal(*arguments))
        address = command.wait_for(SERVING)[1]
        until_ready(f"http://{address}", command)
        return address, command

    def calls(self) -> int:
        return self._calls.read_text().count("called") if self._calls.exists() else 0


def double(client: Client, model: str, number: int) -> int:
    return int(client.infer(model, {"x": np.array([number])})["y"][0])


def test_a_second_identical_request_is_answered_without_the_worker(tmp_path: Path) -> None:
    with ExitStack() as stack:
        counted = Counted(stack, tmp_path)
        address, _ = counted.coordinator()
        with Client(address) as client:
            assert [double(client, "kept", 21) for _ in range(3)] == [42] * 3
            assert counted.calls() == 1
            assert double(client, "kept", 22) == 44  # another request
            assert counted.calls() == 2
            assert [double(client, "computed", 21) for _ in range(3)] == [42] * 3
            assert counted.calls() == 5
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as response:
            assert b'shoal_response_cache_hits_total{model="kept",tier="memory"} 2.0' in response.read()


def test_answers_outlive_the_coordinator(tmp_path: Path) -> None:
    with ExitStack() as stack:
        counted = Counted(stack, tmp_path)
        address, command = counted.coordinator()
        with Client(address) as client:
            assert double(client, "kept", 21) == 42
        assert command.interrupt() == 0
        address, _ = counted.coordinator()
        with Client(address) as client:
            assert [double(client, "kept", 21) for _ in range(2)] == [42] * 2
        assert counted.calls() == 1
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as response:
            assert b'shoal_response_cache_hits_total{model="kept",tier="disk"} 1.0' in response.read()


def test_an_unknown_model_is_named_in_the_error() -> None:
    with pair() as (address, _, _), Client(address) as client, pytest.raises(ShoalError, match="'whale'"):
        client.infer("whale", {"input": np.zeros(1)})


def test_a_killed_worker_is_noticed_and_a_new_one_taken_in() -> None:
    with pair() as (address, coordinator, worker), ExitStack() as stack:
        worker.process.kill()
        coordinator.wait_for("is lost")
        with Client(address) as client:
            with pytest.raises(ShoalError, match="ready nowhere"):
                client.infer("echo", {"input": np.zeros(1)})
            stack.enter_context(shoal("worker", "--port", "0", "--model", "echo", "--coordinator", address))
            until_ready(f"http://{address}", coordinator)
            assert client.infer("echo", {"input": np.ones(1)})["output"][0] == 1


def test_an_interrupt_ends_both_in_order_and_leaves_nothing() -> None:
    with pair() as (_, coordinator, worker):
        family = coordinator.descendants() + worker.descendants()
        assert coordinator.interrupt() == 0
        assert worker.interrupt() == 0
        assert gone(family)
        assert not any("error" in line or "Traceback" in line for line in coordinator.log + worker.log)
