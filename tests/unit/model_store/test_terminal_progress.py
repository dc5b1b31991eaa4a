from __future__ import annotations

import io

import pytest
from rich.console import Console

from shoal.model_store import TerminalProgress
from shoal.model_store.progress import of_bytes


def terminal() -> tuple[TerminalProgress, io.StringIO]:
    screen = io.StringIO()
    return TerminalProgress(Console(file=screen, force_terminal=True, width=80, color_system=None)), screen


def test_every_stage_has_a_bar_that_ends_full() -> None:
    progress, screen = terminal()
    with progress:
        progress("download", 0.5)
        progress("convert", 0.1)
    final = screen.getvalue().split("\x1b[2K")[-1]
    assert [line.split()[0] for line in final.splitlines()[:2]] == ["download", "convert"]
    assert final.count("100%") == 2


def test_a_stage_that_fails_is_not_shown_as_done() -> None:
    progress, screen = terminal()

    def fail() -> None:
        with progress:
            progress("download", 0.5)
            raise OSError

    with pytest.raises(OSError):
        fail()
    assert "50%" in screen.getvalue()
    assert "100%" not in screen.getvalue()


def test_each_stage_is_one_line_where_there_is_no_terminal() -> None:
    screen = io.StringIO()
    with TerminalProgress(Console(file=screen)) as progress:
        progress("download [fish]", 0.1)
        progress("download [fish]", 0.5)
        progress("convert", 0.1)
    assert screen.getvalue() == "download [fish] …\nconvert …\n"


def test_bytes_beyond_an_estimate_are_all_there_is() -> None:
    told: list[tuple[str, float]] = []
    report = of_bytes(lambda stage, fraction: told.append((stage, fraction)), "copy", 10)
    report(5)
    report(12)
    assert told == [("copy", 0.5), ("copy", 1.0)]
