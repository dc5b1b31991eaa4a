"""What a contest is, and one entrant's run in it."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec
from serving import Family, NotServing, free_port, running

from rivals.entrant import Entrant, Figures, Loop, Place, Server, Wrong
from rivals.environments import python
from shoal.errors import ShoalError

CHECKED: Final = 64  # answers, before a measurement and after it
LOOP_WITHIN: Final = 300.0  # seconds for a bare loop

Check = Callable[[str, Server, int], None]  # address, server, how many answers; raises when they are not right
WarmUp = Callable[[str, Server, int], None]  # address, server, clients
Measure = Callable[[str, Server, int, float], Figures]  # address, server, clients, seconds


@dataclass(frozen=True, kw_only=True)
class Contest:
    """The first of the entrants is what the others are measured by."""

    name: str
    title: str
    unit: str
    entrants: tuple[Entrant, ...]
    models: tuple[str, ...]  # built-in ones that they run
    clients: int  # unless told otherwise
    check: Check
    warm_up: WarmUp
    measure: Measure
    start_within: float  # seconds to the first right answer

    def run(self, entrant: Entrant, clients: int, seconds: float) -> Figures:
        """Start, check, warm up, measure, check, end. Raises :class:`NotServing` or :class:`Wrong`."""
        if isinstance(entrant, Loop):
            return in_a_process(entrant, clients)
        with started(entrant, clients) as (url, family):
            self._wait_until_right(url, entrant, family)
            try:
                self.check(url, entrant, CHECKED)
                self.warm_up(url, entrant, clients)
                cpu, began = family.cpu_seconds(), time.perf_counter()
                figures = self.measure(url, entrant, clients, seconds)
                cores = (family.cpu_seconds() - cpu) / (time.perf_counter() - began)
                memory = family.memory_bytes()
                self.check(url, entrant, CHECKED)
            except (OSError, TimeoutError, ShoalError) as error:
                raise Wrong(f"{type(error).__name__} {error}") from error
        return msgspec.structs.replace(figures, cores=cores, memory_bytes=memory)

    def _wait_until_right(self, url: str, server: Server, family: Family) -> None:
        """Raises :class:`NotServing` with what it last answered."""
        last = ""

        def right() -> bool:
            nonlocal last
            try:
                self.check(url, server, 1)
            except (OSError, TimeoutError, ShoalError, Wrong) as error:
                last = f"{type(error).__name__} {error}"
                time.sleep(0.2)
                return False
            return True

        try:
            family.wait(right, self.start_within)
        except NotServing as error:
            raise NotServing(f"{last}; {error}") from error


@contextmanager
def started(server: Server, clients: int) -> Iterator[tuple[str, Family]]:
    """The address of the server, which may not be ready yet."""
    with TemporaryDirectory(prefix="shoal-rival-") as folder:
        cores = len(os.sched_getaffinity(0))
        place = Place(python(server), Path(folder), free_port(), cores, clients)
        variables = {"OMP_NUM_THREADS": str(cores), **server.variables}
        if server.packages:
            # What it writes beside is gone with it, and it finds its own commands first.
            variables |= {"HOME": folder, "PATH": f"{place.bin}:{os.environ['PATH']}"}
        start = partial(running, variables=variables, folder=place.folder if server.packages else None)
        with start(list(server.command(place)), log=place.folder / "log") as family:
            yield f"http://127.0.0.1:{place.port}", family


def in_a_process(loop: Loop, clients: int) -> Figures:
    """Of its own, so that nothing of an earlier run is left in it."""
    cores = len(os.sched_getaffinity(0))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        try:
            return pool.apply_async(loop.run, (cores, clients)).get(LOOP_WITHIN)
        except multiprocessing.TimeoutError:
            raise NotServing(f"took longer than {LOOP_WITHIN:.0f} s") from None
