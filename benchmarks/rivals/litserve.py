"""LitServe."""

from __future__ import annotations

from rivals.entrant import SERVERS, Server
from rivals.shapes import data, same

ECHO = Server(
    name="LitServe",
    command=lambda place: [str(place.python), str(SERVERS / "litserve_echo.py"), str(place.port)],
    path="/predict",
    ask=data,
    read=same,
    packages=("litserve==0.2.19",),
)
