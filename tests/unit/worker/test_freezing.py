"""When a silent engine process is frozen and when it is busy, from a time that is handed in."""

from __future__ import annotations

import pytest

from shoal.worker.freezing import FreezeWatch


class Engine:
    """A process that is looked at each 50 ms; it last spoke at 0."""

    def __init__(self) -> None:
        self.stopped = False
        self.probes = 0
        self.heard = self.time = 0.0
        self.watch = FreezeWatch(probe=self._probe, is_stopped=lambda: self.stopped)

    def _probe(self) -> None:
        self.probes += 1

    def frozen_within(self, seconds: float, *, sent: int) -> float | None:
        """When it was found frozen."""
        end = self.time + seconds
        while self.time < end:
            self.time += self.watch.pause
            if self.watch.look(sent, self.heard, self.time):
                return self.time
        return None


@pytest.mark.parametrize("sent", [0, 5])
def test_one_that_is_stopped_is_frozen_within_a_second(sent: int) -> None:
    engine = Engine()
    engine.stopped = True
    found = engine.frozen_within(10.0, sent=sent)
    assert found is not None
    assert 0.5 < found < 1.0
    assert engine.probes == 1


def test_one_that_is_silent_but_runs_is_busy() -> None:
    engine = Engine()
    assert engine.frozen_within(30.0, sent=5) is None
    assert engine.probes == 1


def test_one_that_is_stopped_in_the_middle_of_a_long_call_is_frozen() -> None:
    engine = Engine()
    engine.frozen_within(5.0, sent=5)
    engine.stopped = True
    assert engine.frozen_within(0.1, sent=5) is not None


def test_it_is_back_with_its_first_word_and_no_sooner() -> None:
    engine = Engine()
    engine.stopped = True
    engine.frozen_within(1.0, sent=5)
    engine.stopped = False
    assert engine.watch.look(0, engine.heard, engine.time + 0.1)
    assert not engine.watch.look(0, engine.time + 0.2, engine.time + 0.2)


def test_one_that_answers_the_probe_is_asked_nothing_else() -> None:
    engine = Engine()
    engine.stopped = True
    engine.frozen_within(0.35, sent=5)
    assert engine.probes == 1
    assert not engine.watch.look(5, 0.34, 0.36)


def test_what_it_said_while_this_process_slept_is_read_first() -> None:
    engine = Engine()
    engine.stopped = True
    engine.watch.look(5, 0.0, 0.1)
    assert not engine.watch.look(5, 0.0, 60.0)
    assert engine.probes == 0
