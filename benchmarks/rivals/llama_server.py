"""llama.cpp's server, with the file as it is published (Q4_1)."""

from __future__ import annotations

from collections.abc import Sequence

from rivals.entrant import SERVERS, Place, Server
from rivals.models import smollm2_gguf


def _run(place: Place) -> Sequence[str]:
    numbers = [place.port, max(1, place.clients), place.cores]
    return [str(place.python), str(SERVERS / "llama_server.py"), str(smollm2_gguf()), *map(str, numbers)]


GENERATION = Server(
    name="llama-server, Q4_1",
    command=_run,
    path="/v1/completions",
    packages=("xllamacpp==2026.10.11549",),
)
