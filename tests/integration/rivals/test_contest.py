"""Servers that do not do what a contest expects of them: each is told, skipped and ended."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from beside_rivals import chosen, compete
from rich.console import Console
from rivals import bare
from rivals.contest import Contest, started
from rivals.entrant import Entrant, Figures, Place, Server, Wrong
from rivals.environments import NotInstalled, install, is_installed
from rivals.load import figures, press
from rivals.overhead import OVERHEAD, QUESTIONS
from rivals.results import begin, show
from serving import NotServing, answers, running

SLEEPS = "import time; time.sleep(60)"
FORKS = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEPS!r}]); {SLEEPS}"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


def python(code: str) -> Server:
    def command(place: Place) -> Sequence[str]:
        return [sys.executable, "-c", code]

    return replace(bare.ECHO, name="broken", command=command)


def test_a_server_that_ends_at_once_is_told_with_the_end_of_its_log() -> None:
    with pytest.raises(NotServing, match=r"ended with 3[\s\S]*no such port"):
        OVERHEAD.run(python("print('no such port'); raise SystemExit(3)"), 1, 0.1)


def test_a_server_that_never_answers_is_given_up() -> None:
    contest = replace(OVERHEAD, start_within=1.0)
    with pytest.raises(NotServing, match=r"ConnectionRefusedError[\s\S]*not ready within 1 s"):
        contest.run(python(SLEEPS), 1, 0.1)


def test_a_server_whose_answers_are_not_right_is_not_measured() -> None:
    shouts = replace(bare.ECHO, read=lambda answer: [number + 1 for number in answer["data"]])
    with pytest.raises(NotServing, match="not what was asked for"):
        replace(OVERHEAD, start_within=3.0).run(shouts, 1, 0.1)


@pytest.mark.parametrize("tool", ["wrk", "none"])
def test_a_load_is_counted_whatever_makes_it(tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if tool == "wrk" and not shutil.which("wrk"):
        pytest.skip("wrk is not installed")
    monkeypatch.setattr("rivals.load.shutil.which", lambda name: name == tool)
    with started(bare.ECHO, 2) as (url, family):
        family.wait(lambda: answers(url), 30)
        heard = press(url, bare.ECHO, QUESTIONS, clients=2, seconds=1)
        assert figures(heard).rate > 1
        assert heard.bytes >= 200 * heard.requests


@pytest.mark.parametrize("code", [FORKS, DEAF])
def test_nothing_is_left_of_a_server(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.END_WITHIN", 0.5)
    with running([sys.executable, "-c", code]) as family:
        family.wait(lambda: code == DEAF or len(family.members()) == 2, 20)
        members = family.members()
        assert family.cpu_seconds() >= 0
        assert family.memory_bytes() > 0
    _, alive = psutil.wait_procs(members, timeout=10)
    assert all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


class Scripted(Contest):
    """Entrants do as their names say."""

    def run(self, entrant: Entrant, clients: int, seconds: float) -> Figures:
        order.append(entrant.name)
        if entrant.name == "second" and len(order) > 3:
            raise Wrong("no more")
        return Figures(rate=10.0)


order: list[str] = []


def test_rounds_go_there_and_back_and_who_fails_takes_part_no_more() -> None:
    order.clear()
    entrants = tuple(replace(bare.ECHO, name=name) for name in ("first", "second", "third"))
    contest = Scripted(**{**vars(OVERHEAD), "entrants": entrants})
    results, told = begin("overhead", "requests/s", 1, 1), io.StringIO()
    compete(contest, list(entrants), results, 3, Console(file=told, width=200))
    assert order == ["first", "second", "third", "third", "second", "first", "first", "third"]
    assert {name: len(runs) for name, runs in results.runs.items()} == {"first": 3, "third": 3}
    assert results.left_out == {"second": "no more"}
    show(results, Console(file=told, width=200))
    assert "left out: second: no more" in told.getvalue()
    assert "1.00 (1.00-1.00)" in told.getvalue()


def test_only_the_rivals_that_were_named_take_part() -> None:
    everybody = [entrant.name for entrant in OVERHEAD.entrants]
    assert [e.name for e in chosen(OVERHEAD, "")] == everybody
    assert [e.name for e in chosen(OVERHEAD, "shoal")] == everybody[:3]
    assert [e.name for e in chosen(OVERHEAD, "Mosec, tri")] == [*everybody[:3], "mosec", "Triton"]


def test_what_cannot_be_installed_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("rivals.environments.folder", lambda: tmp_path)
    monkeypatch.setattr("rivals.environments.NEEDED_BYTES", 2**62)
    rival = replace(bare.ECHO, packages=("a-package-that-is-not-there==1.0",))
    with pytest.raises(NotInstalled, match="GB are free"):
        install(rival)
    assert not is_installed(rival)
