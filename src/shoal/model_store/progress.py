"""How far a long job is, told through one function: nothing for servers and tests, a bar for people."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

#: Called with what is being done and how much of it is, 0 to 1. A new name means that the stage before is over.
Progress = Callable[[str, float], None]


def no_progress(stage: str, fraction: float) -> None:
    """Tells nobody."""


def of_bytes(progress: Progress, stage: str, total: int) -> Callable[[int], None]:
    """Tell a stage in bytes out of ``total``, which may be an estimate."""
    return lambda done: progress(stage, min(done / total, 1.0))


class TerminalProgress:
    """One bar a stage, on standard error; where that is no terminal, one line a stage when it begins.

    Use it as a context manager, so that the cursor comes back.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._stage = ""
        self._bar: TaskID | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._fill()
        self._bars.stop()

    def __call__(self, stage: str, fraction: float) -> None:
        if self._bar is None or stage != self._stage:
            self._fill()
            if not self._console.is_terminal:
                self._console.print(f"{stage} …", markup=False, highlight=False)
            self._stage, self._bar = stage, self._bars.add_task(stage, total=1.0)
        self._bars.update(self._bar, completed=fraction)

    def _fill(self) -> None:
        """A stage whose total was an estimate ends full all the same."""
        if self._bar is not None:
            self._bars.update(self._bar, completed=1.0)
