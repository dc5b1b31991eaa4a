"""What a coordinator hears of a worker, and what it does not have to hear again."""

from __future__ import annotations

from shoal.messages import Load, LoadReport, ModelInfo, Status
from shoal.types import ModelKind, ModelName, ModelState, WorkerId, WorkerState
from shoal.worker.reports import _Told

SILENCE = 0.5


def status(*, load: int = 0, state: WorkerState = WorkerState.READY, models: tuple[str, ...] = ("a", "b")) -> Status:
    infos = tuple(ModelInfo(ModelName(name), ModelKind.TENSOR, ModelState.READY) for name in models)
    return Status(WorkerId("w"), state, Load(in_flight=load), infos)


def told() -> _Told:
    """What a coordinator has heard that heard everything at second 1."""
    heard = _Told()
    assert heard.news(status(), 1.0, SILENCE) == status()
    return heard


def test_the_first_word_is_all_of_it() -> None:
    assert _Told().news(status(load=3), 0.0, SILENCE) == status(load=3)


def test_what_is_known_is_not_told_again() -> None:
    assert told().news(status(), 1.1, SILENCE) is None


def test_a_load_that_changed_is_told_without_the_models() -> None:
    assert told().news(status(load=1), 1.1, SILENCE) == LoadReport(Load(in_flight=1))


def test_a_load_that_is_as_before_is_not_told() -> None:
    heard = told()
    assert heard.news(status(load=1), 1.1, SILENCE) == LoadReport(Load(in_flight=1))
    assert heard.news(status(load=1), 1.2, SILENCE) is None


def test_a_heartbeat_is_a_load() -> None:
    heard = told()
    assert heard.news(status(), 1.0 + SILENCE, SILENCE) == LoadReport(Load())
    assert heard.news(status(), 1.1 + SILENCE, SILENCE) is None


def test_a_change_of_the_state_or_of_the_models_is_told_in_full() -> None:
    heard = told()
    overloaded = status(state=WorkerState.OVERLOADED)
    assert heard.news(overloaded, 1.1, SILENCE) == overloaded
    fewer = status(state=WorkerState.OVERLOADED, models=("a",))
    assert heard.news(fewer, 1.2, SILENCE) == fewer
