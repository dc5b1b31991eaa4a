"""What a server costs: a model that answers with its input, 200 bytes of JSON a request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rivals import bare, bentoml, litserve, mlserver, mosec, ray_serve, shoal, triton
from rivals.contest import Contest
from rivals.entrant import Figures, Server
from rivals.load import check, figures, press
from rivals.questions import FIRST, Questions

REST: Final = [7_654_321 * (place + 2) % 90_000_000 + FIRST for place in range(13)]
CHECK_CLIENTS: Final = 8


def _right(numbers: Sequence[int], answers: Sequence[Any]) -> bool:
    return list(answers) == [[number, *REST] for number in numbers]


QUESTIONS: Final = Questions(make=lambda spelt: [int(spelt), *REST], right=_right, size=200)


def _check(url: str, server: Server, count: int) -> None:
    check(url, server, QUESTIONS, CHECK_CLIENTS, count)


def _warm_up(url: str, server: Server, clients: int) -> None:
    press(url, server, QUESTIONS, clients=clients, seconds=2)


def _measure(url: str, server: Server, clients: int, seconds: float) -> Figures:
    return figures(press(url, server, QUESTIONS, clients=clients, seconds=seconds))


OVERHEAD: Final = Contest(
    name="overhead",
    title="a model that answers with its input, 200 bytes of JSON",
    unit="requests/s",
    entrants=(
        bare.ECHO,
        shoal.ECHO,
        shoal.PLAIN_ECHO,
        mosec.ECHO,
        triton.ECHO,
        mlserver.ECHO,
        bentoml.ECHO,
        litserve.ECHO,
        ray_serve.ECHO,
    ),
    clients=32,
    check=_check,
    warm_up=_warm_up,
    measure=_measure,
    models=(),
    start_within=60,
)
