"""Real processes that die under load: no request hangs, and nothing is left behind."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import psutil
from processes import Command, gone, until_ready
from processes import shoal as run_shoal

import shoal

LONG = [{"role": "user", "content": "Tell me a long story about the sea."}]


def serve(*arguments: str) -> contextlib.AbstractContextManager[Command]:
    return run_shoal("serve", *arguments, "--listen-port", "0")


def address_of(command: Command, workers: int = 1) -> str:
    """The address, once so many workers have the language model ready."""
    address = command.wait_for(r"coordinator serves on http://(\S+)")[1]
    command.wait_for(r"smollm2 \(ready\)", times=workers)
    until_ready(f"http://{address}", command)
    return address


def named(command: Command, part: str) -> list[psutil.Process]:
    return [child for child in command.descendants() if part in " ".join(child.cmdline())]


def test_a_worker_killed_under_load_leaves_no_request_hanging() -> None:
    with serve("smollm2", "--workers", "2") as command:
        address = address_of(command, workers=2)
        begun = threading.Barrier(9)

        def ask(number: int) -> str:
            with shoal.Client(address, timeout=60) as client:
                try:
                    for index, _ in enumerate(client.stream(LONG, max_tokens=150, ignore_eos=True, seed=number)):
                        if index == 0:
                            begun.wait(30)
                except shoal.ShoalError as error:
                    return error.code
                return "whole"

        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(ask, number) for number in range(8)]
            begun.wait(30)  # every stream has its first token
            named(command, "shoal worker")[0].kill()
            ends = [request.result(timeout=60) for request in asked]
        assert sorted(set(ends)) == ["whole", "worker_lost"]
        command.wait_for("starting it again")
        with shoal.Client(address) as client:
            assert client.generate(LONG, max_tokens=4).usage is not None


def test_an_engine_that_crashes_is_an_error_with_a_reason_and_the_worker_lives_on() -> None:
    with serve("smollm2", "--workers", "1") as command:
        address = address_of(command)
        (worker,) = named(command, "shoal worker")
        (engine,) = named(command, "engine_host")
        with shoal.Client(address) as client:
            chunks = client.stream(LONG, max_tokens=4000, ignore_eos=True)
            next(chunks)
            engine.send_signal(11)
            try:
                for _ in chunks:
                    pass
                code = "whole"
            except shoal.ShoalError as error:
                code = error.code
            assert code == "engine_failed"
            command.wait_for("died: killed by SIGSEGV")
            command.wait_for(r"smollm2 \(ready\)", times=2)
            assert client.generate(LONG, max_tokens=4).usage is not None
        assert worker.is_running()


def test_a_model_that_cannot_be_loaded_has_a_reason_and_the_others_are_served() -> None:
    with serve("smollm2", "broken=nowhere/broken.onnx", "--workers", "1") as command:
        address = command.wait_for(r"coordinator serves on http://(\S+)")[1]
        command.wait_for(r"smollm2 \(ready\)")
        command.wait_for(r"broken \(failed\)")
        with shoal.Client(address) as client:
            assert client.generate(LONG, max_tokens=4).usage is not None
            try:
                client.infer("broken", {})
                reason = ""
            except shoal.ShoalError as error:
                reason = error.message
        assert "there is no file nowhere/broken.onnx" in reason


def test_ctrl_c_under_load_drains_and_leaves_no_process() -> None:
    with serve("smollm2", "--workers", "2") as command:
        address = address_of(command, workers=2)
        with shoal.Client(address) as client, ThreadPoolExecutor(1) as pool:
            chunks = client.stream(LONG, max_tokens=40, ignore_eos=True, temperature=0)
            next(chunks)
            family = command.descendants()
            assert len(family) == 4
            stopped = pool.submit(command.interrupt)
            rest = list(chunks)  # the running request finishes
            assert rest[-1].finish_reason == "length"
            assert stopped.result() == 0
        assert gone(family)


def test_a_killed_parent_takes_everything_with_it() -> None:
    with serve("smollm2", "--workers", "2") as command:
        address_of(command, workers=2)
        family = command.descendants()
        command.process.kill()
        assert gone(family, timeout=30)
