"""mosec: a front end in Rust, workers in Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from rivals.entrant import SERVERS, Place, Server
from rivals.models import MINILM, MINILM_PACKAGES
from rivals.shapes import data, same

PACKAGES = ("mosec==0.9.8", "orjson==3.13.0")


def _run(script: str) -> Callable[[Place], Sequence[str]]:
    return lambda place: [
        str(place.python),
        str(SERVERS / script),
        "--address=127.0.0.1",
        f"--port={place.port}",
        "--timeout=60000",  # milliseconds
        f"--path={place.folder / 'sockets'}{os.sep}",
    ]


ECHO = Server(name="mosec", command=_run("mosec_echo.py"), path="/inference", ask=data, read=same, packages=PACKAGES)

EMBEDDINGS = Server(
    name="mosec",
    command=_run("mosec_embeddings.py"),
    path="/inference",
    ask=lambda text: {"text": text},
    read=lambda answer: answer["embedding"],
    packages=(*PACKAGES, *MINILM_PACKAGES, "numpy==2.4.6"),
    variables={"MINILM": str(MINILM)},
)
