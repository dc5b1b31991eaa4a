"""Silence, and what follows: a probe, suspicion, the end; never for one that is only busy."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from shoal.cluster import Patience, Verdict, Vigil

FINE, PROBE, WAIT, SUSPECT, LOST = Verdict


@dataclass
class Worker:
    heartbeat: float = 0.5
    sent: int = 0
    probed: float | None = None


class Watch:
    """Looks at one worker, as often as a vigil asks for."""

    def __init__(self, worker: Worker | None = None) -> None:
        self.vigil = Vigil()
        self.worker = worker or Worker()
        self.now = self.heard = 0.0
        self.verdicts: list[tuple[float, Verdict]] = []

    def silence(self, seconds: float) -> list[Verdict]:
        """The verdicts as they change."""
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.look()
        changes = [verdict for _, verdict in self.verdicts]
        return [verdict for index, verdict in enumerate(changes) if index == 0 or verdict is not changes[index - 1]]

    def look(self, after: float = 0.05) -> Verdict:
        self.now += after
        self.vigil.begin(self.now)
        verdict = self.vigil.judge(self.worker, self.heard, self.now)
        self.verdicts.append((self.now, verdict))
        return verdict

    def speaks(self) -> None:
        self.heard = self.now

    def when(self, verdict: Verdict) -> float:
        return next(at for at, found in self.verdicts if found is verdict)


@pytest.mark.parametrize(("sent", "within"), [(0, 1.0), (3, 0.7)])
def test_a_silent_worker_is_probed_once_suspected_and_given_up(sent: int, within: float) -> None:
    watch = Watch(Worker(sent=sent))
    assert watch.silence(3.5) == [FINE, PROBE, WAIT, SUSPECT, LOST]
    assert sum(verdict is PROBE for _, verdict in watch.verdicts) == 1
    assert watch.when(SUSPECT) < within
    assert watch.when(LOST) - watch.when(PROBE) == pytest.approx(Patience().lost, abs=0.1)


def test_a_worker_with_nothing_to_do_that_keeps_its_heartbeat_is_never_probed() -> None:
    watch = Watch()
    for _ in range(20):
        assert watch.silence(0.55)[-1] is FINE
        watch.speaks()
    assert {verdict for _, verdict in watch.verdicts} == {FINE}


def test_a_worker_that_was_asked_for_rare_heartbeats_is_not_given_up_between_them() -> None:
    watch = Watch(Worker(heartbeat=10.0))
    for _ in range(3):
        assert watch.silence(10.0) == [FINE]
        watch.speaks()
    assert watch.silence(11.0) == [FINE, PROBE, WAIT, SUSPECT]


def test_a_busy_worker_that_answers_probes_is_never_suspected() -> None:
    watch = Watch(Worker(sent=1, heartbeat=60.0))  # it says nothing by itself, as when one request takes minutes
    for _ in range(2400):
        if watch.look() is PROBE:
            watch.speaks()
    assert {verdict for _, verdict in watch.verdicts} == {FINE, PROBE}


@pytest.mark.parametrize("silent", [0.7, 1.5, 2.5])
def test_one_word_clears_a_suspect_and_the_next_silence_is_measured_anew(silent: float) -> None:
    watch = Watch(Worker(sent=1))
    assert watch.silence(silent)[-1] is SUSPECT
    watch.speaks()
    assert watch.look() is FINE
    assert watch.worker.probed is None
    watch.verdicts.clear()
    assert watch.silence(0.4) == [FINE, PROBE, WAIT]


def test_a_worker_far_away_whose_answers_to_probes_take_long_is_known_by_its_heartbeats() -> None:
    watch = Watch(Worker(sent=1))
    for _ in range(20):
        assert watch.silence(0.55)[-1] is not SUSPECT
        watch.speaks()


def test_when_this_process_itself_slept_the_silence_is_not_theirs() -> None:
    watch = Watch(Worker(sent=1))
    watch.silence(0.2)
    assert watch.look(after=20.0) is FINE
    assert watch.silence(0.7)[-1] is SUSPECT
    assert watch.when(SUSPECT) > 20.6
