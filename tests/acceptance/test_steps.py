"""Steps in processes of their own, behind the installed command: a real picture, a pipeline from a file, faults."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import numpy as np
import psutil
import pytest
from pictures import line_of_text
from processes import Command, gone, until_ready
from processes import shoal as run_shoal

import shoal
from shoal.errors import InvalidRequest
from shoal.model_store import find

CONFIG = """
models:
  ocr: {uri: ocr}
  shout:
    uri: echo
    preproc:
      - normalize_text: {input: input, output: input, lower: true}
    postproc:
      - steps_of_mine:louder: {mark: "!"}
"""

STEPS = """
import os, signal, time
import numpy as np

def louder(tensors, *, mark):
    for (text,) in tensors["output"]:
        if text == b"crash":
            os.kill(os.getpid(), signal.SIGSEGV)
    return {"output": np.array([[text + mark.encode()] for (text,) in tensors["output"]], object)}
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Command]]:
    try:
        metadata.distribution(find("ocr").package)
    except metadata.PackageNotFoundError:
        pytest.skip("the package of ocr is not installed")
    folder = tmp_path_factory.mktemp("steps")
    (folder / "shoal.yaml").write_text(CONFIG)
    (folder / "steps_of_mine.py").write_text(STEPS)
    arguments = ["--config", str(folder / "shoal.yaml"), "--workers", "1", "--preproc-processes", "2"]
    with run_shoal("serve", *arguments, "--listen-port", "0", environment=_importing(folder)) as command:
        address = command.wait_for(r"coordinator serves on http://(\S+)")[1]
        until_ready(f"http://{address}", command)
        yield address, command


def _importing(folder: Path) -> dict[str, str]:
    source = Path(shoal.__file__).parent.parent
    return {"PYTHONPATH": f"{folder}:{source}"}


@pytest.fixture
def client(served: tuple[str, Command]) -> Iterator[shoal.Client]:
    with shoal.Client(served[0], timeout=60) as client:
        yield client


def images(*texts: str) -> dict[str, np.ndarray]:
    return {"image": np.array([[line_of_text(text)] for text in texts], object)}


def texts(*rows: bytes) -> dict[str, np.ndarray]:
    return {"input": np.array([[row] for row in rows], object)}


def step_processes(command: Command) -> list[psutil.Process]:
    return [child for child in command.descendants() if "shoal.preproc.host" in child.cmdline()]


def test_a_picture_becomes_text(client: shoal.Client) -> None:
    read = client.infer("ocr", images("Many small fish", "move as one"))
    assert read["text"].tolist() == [[b"Many small fish"], [b"move as one"]]


def test_a_bad_picture_is_its_senders_fault_and_hurts_nobody_else(client: shoal.Client) -> None:
    with ThreadPoolExecutor(4) as threads:
        good = [threads.submit(client.infer, "ocr", images(f"fish {number}")) for number in range(3)]
        with pytest.raises(InvalidRequest, match="row 0 of 'image' is not a picture in JPEG or PNG"):
            client.infer("ocr", {"image": np.array([[b"fish"]], object)})
        assert [answer.result()["text"].item() for answer in good] == [b"fish 0", b"fish 1", b"fish 2"]


def test_built_in_steps_and_the_users_run_around_a_model_of_the_file(client: shoal.Client) -> None:
    assert client.infer("shout", texts(b" FISH ", b"Eel"))["output"].tolist() == [[b"fish!"], [b"eel!"]]


def test_killed_step_processes_cost_no_request(served: tuple[str, Command], client: shoal.Client) -> None:
    victims = step_processes(served[1])
    assert len(victims) == 4
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(client.infer, "ocr", images(f"number {number}")) for number in range(12)]
        for victim in victims[::2]:
            victim.kill()
        answers = [answer.result(timeout=60)["text"].item() for answer in asked]
    assert answers == [f"number {number}".encode() for number in range(12)]


def test_a_request_that_kills_its_steps_fails_alone(client: shoal.Client) -> None:
    with pytest.raises(shoal.ShoalError, match="2 processes died of the steps of postproc"):
        client.infer("shout", texts(b"crash"))
    assert client.infer("shout", texts(b"fish"))["output"].item() == b"fish!"


def test_nothing_is_left_at_the_end(served: tuple[str, Command]) -> None:
    _, command = served
    family = command.descendants()
    assert re.search("step process", "".join(command.log))  # the crashes were told
    assert command.interrupt() == 0
    assert gone(family)
