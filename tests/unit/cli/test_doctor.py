"""What ``shoal doctor`` finds on a machine."""

from __future__ import annotations

import json
import resource
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from shoal.cli import shoal
from shoal.cli.doctor import _cores, _instructions, _layout, _quota, backlog, descriptors


def test_it_shows_the_layout_the_engines_and_the_models() -> None:
    done = CliRunner().invoke(shoal, ["doctor", "--json"])
    found = {finding["about"]: finding for finding in json.loads(done.stdout)}
    assert {"cores", "worker 1 of 2", "memory", "connections", "engine onnx", "models", "model smollm2"} <= found.keys()
    assert "spin count" in found["worker 1 of 2"]["found"]


def test_what_is_missing_comes_with_the_command_that_brings_it(tmp_path: Path) -> None:
    done = CliRunner().invoke(shoal, ["doctor"], env={"SHOAL_CACHE_DIR": str(tmp_path)})
    assert "shoal pull minilm" in done.stdout


def test_a_port_that_is_taken_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = CliRunner().invoke(shoal, ["doctor"], env={"SHOAL_COORDINATOR_PORT": str(port)})
    assert f"127.0.0.1:{port}: address already in use" in done.stdout


def test_more_workers_than_cores_get_advice() -> None:
    assert [bool(finding.advice) for finding in _layout([0, 1], 2)] == [False, False]
    assert [bool(finding.advice) for finding in _layout([0, 1], 3)] == [True, True, True]


@pytest.mark.parametrize(("text", "quota"), [("150000 100000\n", 1.5), ("max 100000\n", None), ("", None)])
def test_a_containers_quota_is_read(tmp_path: Path, text: str, quota: float | None) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert _quota(tmp_path / "cpu.max") == quota


def test_a_quota_below_the_cores_is_in_the_way() -> None:
    assert _cores(4, 2.0).advice
    assert not _cores(4, 4.0).advice
    assert not _cores(4, None).advice


def test_few_descriptors_and_a_short_backlog_are_in_the_way(tmp_path: Path) -> None:
    assert descriptors(1024).advice
    assert not descriptors(65_536).advice
    assert not descriptors(resource.RLIM_INFINITY).advice
    (tmp_path / "somaxconn").write_text("128\n")
    assert backlog(tmp_path / "somaxconn").advice
    (tmp_path / "somaxconn").write_text("4096\n")
    assert not backlog(tmp_path / "somaxconn").advice


def test_a_machine_that_does_not_say_its_instructions_is_no_error(tmp_path: Path) -> None:
    assert _instructions(tmp_path / "none").found == "not known"
    (tmp_path / "cpuinfo").write_text("processor: 0\nflags\t\t: fpu avx2 amx_bf16\n")
    assert _instructions(tmp_path / "cpuinfo").found == "amx_bf16, avx2"
