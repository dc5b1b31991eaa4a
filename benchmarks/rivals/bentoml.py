"""BentoML."""

from __future__ import annotations

from collections.abc import Sequence

from rivals.entrant import SERVERS, Place, Server
from rivals.shapes import data, same

PACKAGES = ("bentoml==1.4.40",)


def _run(place: Place) -> Sequence[str]:
    serve = [str(place.bin / "bentoml"), "serve", "bentoml_echo:Echo", "--working-dir", str(SERVERS)]
    return [*serve, "--host", "127.0.0.1", "--port", str(place.port)]


ECHO = Server(
    name="BentoML",
    command=_run,
    path="/echo",
    ask=data,
    read=same,
    packages=PACKAGES,
    variables={"BENTOML_DO_NOT_TRACK": "true"},
)
