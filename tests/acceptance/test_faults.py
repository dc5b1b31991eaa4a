"""Real processes that die under load: no request hangs, and nothing is left behind."""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
from processes import Command, gone, until_ready
from processes import shoal as run_shoal

import shoal

LONG = [{"role": "user", "content": "Tell me a long story about the sea."}]


def serve(*arguments: str) -> contextlib.AbstractContextManager[Command]:
    return run_shoal("serve", *arguments, "--listen-port", "0")


def address_of(command: Command, workers: int = 1) -> str:
    """The address, once so many workers have the language model ready."""
    address = command.wait_for(r"coordinator serves on http://(\S+)")[1]
    command.wait_for(r"smollm2 ready", times=workers)
    until_ready(f"http://{address}", command)
    return address


def named(command: Command, part: str) -> list[psutil.Process]:
    return [child for child in command.descendants() if part in " ".join(child.cmdline())]


def ask(address: str, number: int, begun: Callable[[], object] = lambda: None) -> tuple[str, tuple[int, ...]]:
    """Greedy, seeded, penalised and cut at a word, by turns; ``begun`` is called with the first token."""
    options: dict[str, Any] = {"max_tokens": 100, "ignore_eos": True, "seed": number}
    options |= ({"temperature": 0.0}, {}, {"repetition_penalty": 1.2}, {"stop": ["whale"]})[number % 4]
    text, tokens = "", list[int]()
    with shoal.Client(address, timeout=60) as client:
        for chunk in client.stream(LONG, **options):
            if not tokens:
                begun()
            text += chunk.text
            tokens += chunk.tokens
    return text, tuple(tokens)


@pytest.mark.parametrize(
    ("victim", "blow"),
    [("shoal worker", signal.SIGKILL), ("shoal worker", signal.SIGSTOP), ("engine_host", signal.SIGKILL)],
)
def test_answers_go_on_elsewhere_token_by_token_as_without_the_fault(victim: str, blow: signal.Signals) -> None:
    with serve("smollm2", "--workers", "2") as command, ThreadPoolExecutor(8) as pool:
        address = address_of(command, workers=2)
        expected = list(pool.map(functools.partial(ask, address), range(8)))
        begun = threading.Barrier(9)
        asked = [pool.submit(ask, address, number, lambda: begun.wait(30)) for number in range(8)]
        begun.wait(30)  # every stream has its first token
        struck = named(command, victim)[0]
        struck.send_signal(blow)
        assert [request.result(timeout=60) for request in asked] == expected
        command.wait_for("goes on with")
        with contextlib.suppress(psutil.NoSuchProcess):
            struck.kill()  # a frozen process ends with nothing else
        command.wait_for(r"smollm2 ready", times=3)
        assert ask(address, 0) == expected[0]


def test_an_answer_outlives_its_only_engine_and_the_worker_lives_on() -> None:
    with serve("smollm2", "--workers", "1") as command:
        address = address_of(command)
        (worker,) = named(command, "shoal worker")
        (engine,) = named(command, "engine_host")
        with shoal.Client(address) as client:
            chunks = client.stream(LONG, max_tokens=100, ignore_eos=True)
            next(chunks)
            engine.send_signal(11)
            rest = list(chunks)  # it waits for the only engine to be there again
            assert rest[-1].finish_reason == "length"
            command.wait_for("died: killed by SIGSEGV")
        assert worker.is_running()


def test_a_model_that_cannot_be_loaded_has_a_reason_and_the_others_are_served() -> None:
    with serve("smollm2", "broken=nowhere/broken.onnx", "--workers", "1") as command:
        address = command.wait_for(r"coordinator serves on http://(\S+)")[1]
        command.wait_for(r"smollm2 ready")
        command.wait_for(r"broken failed")
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
