"""What the README tells a reader to type does what it says."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
from processes import Command, gone, shoal, until_ready

ROOT = Path(__file__).parent.parent.parent
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SERVERS = ("shoal serve ", "shoal worker ", "shoal coordinator ")
EXPLAINED = re.compile(r"\s+#\s.*$", re.MULTILINE)


def blocks(language: str) -> list[str]:
    return [text for found, text in BLOCK.findall((ROOT / "README.md").read_text()) if found == language]


def commands(block: str) -> list[str]:
    """What is typed at each prompt, without the output and the explanations behind it."""
    typed: list[str] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            typed.append(line[2:])
        elif typed and (typed[-1].endswith("\\") or typed[-1].count("'") % 2):
            typed[-1] += "\n" + line
    return [EXPLAINED.sub("", command) for command in typed]


def free_port() -> int:
    """The first of three that are free together: a coordinator's and two workers'."""
    for port in range(20_000, 30_000, 7):
        with ExitStack() as stack:
            try:
                for number in range(port, port + 3):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", number))
            except OSError:
                continue
            return port
    raise AssertionError("no free ports")


def moved(text: str, port: int) -> str:
    for number in range(3):
        text = text.replace(str(9000 + number), str(port + number))
    return text.replace("example_client.py", f"example_client.py --address 127.0.0.1:{port}")


@contextmanager
def started(command: str, port: int) -> Iterator[Command]:
    words = shlex.split(command)[1:]
    with shoal(*words, environment={"SHOAL_COORDINATOR_PORT": str(port)}) as running:
        listening = "worker listens on" if words[0] == "worker" else "coordinator serves on"
        running.wait_for(listening)
        yield running


def type_all(block: str, port: int) -> None:
    """Servers keep running beside one another, but for a `serve`, which ends what was there before."""
    running: list[Command] = []
    with ExitStack() as servers:
        for command in commands(moved(block, port)):
            if command.startswith("shoal serve"):
                servers.close()
            if command.startswith(SERVERS):
                running.append(servers.enter_context(started(command, port)))
            else:
                until_ready(f"http://127.0.0.1:{port}", running[-1])
                run(command, f"127.0.0.1:{port}")


def run(command: str, address: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SHOAL_ADDRESS": address, "SHOAL_URL": f"http://{address}"}
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


SERVING = [block for block in blocks("console") if any(c.startswith(SERVERS) for c in commands(block))]
ASKING = [block for block in blocks("console") if block not in SERVING and "./run.sh" not in block]


@pytest.mark.parametrize("block", SERVING, ids=lambda block: commands(block)[0][:60])
def test_the_commands_that_serve_start_and_are_answered(block: str) -> None:
    type_all(block, free_port())


@pytest.mark.parametrize("block", ASKING, ids=lambda block: commands(block)[0][:60])
def test_the_commands_that_ask_are_answered(block: str, served: tuple[str, Command]) -> None:
    for command in commands(block):
        assert run(command.replace("127.0.0.1:9000", served[0]), served[0])


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.splitlines()[0])
def test_the_python_snippets_run(code: str, served: tuple[str, Command]) -> None:
    code = code.replace("127.0.0.1:9000", served[0])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_run_sh_answers_a_question_keeps_serving_and_leaves_nothing_behind() -> None:
    port = free_port()
    environment = {**os.environ, "SHOAL_COORDINATOR_PORT": str(port)}
    log = ROOT / ".pytest_cache" / "run.log"
    log.parent.mkdir(exist_ok=True)
    with (
        log.open("w") as output,
        subprocess.Popen(
            ["./run.sh"], cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        ) as process,
    ):
        try:
            wait_for(log, "Ctrl-C stops", process)
            family = psutil.Process(process.pid).children(recursive=True)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            assert process.wait(60) == 0
        finally:
            with_everything = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            for left in with_everything:
                left.kill()
            process.kill()
    # A log record may come in the middle of the answer.
    written = re.sub(r"\d\d:\d\d:\d\d\.\d{3} .*\n", "", log.read_text())
    assert "The capital of France is Paris." in written
    assert re.search(r"Similarity of .*: 0\.5", written)
    assert f"curl http://127.0.0.1:{port}" in written
    assert gone(family)


def test_run_sh_ends_with_a_server_that_cannot_start_and_asks_no_other(served: tuple[str, Command]) -> None:
    port = served[0].rpartition(":")[2]
    environment = {**os.environ, "SHOAL_COORDINATOR_PORT": port}
    done = subprocess.run(["./run.sh"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    # Both pipes have ended, so the question has too.
    assert done.returncode == 2
    assert "--listen-port or SHOAL_COORDINATOR_PORT" in done.stderr
    assert "Q: " not in done.stdout


@pytest.mark.parametrize("options", [(), ("--wait",)])
def test_the_example_says_in_one_line_what_is_wrong(options: tuple[str, ...]) -> None:
    model = ("--model", "broken=nowhere.gguf")
    with (
        shoal("coordinator", "--listen-port", "0") as coordinator,
        shoal("worker", "--port", "0", *model, "--coordinator", serving(coordinator)) as worker,
    ):
        coordinator.wait_for("broken ")
        done = subprocess.run(
            [sys.executable, "examples/example_client.py", "--address", serving(coordinator), *options],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        worker.interrupt()
    assert done.returncode == 1
    assert re.fullmatch(r"shoal: .*broken.*\n", done.stderr)


def serving(coordinator: Command) -> str:
    return coordinator.wait_for(r"coordinator serves on http://(\S+)")[1]


def wait_for(log: Path, text: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while text not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
