"""Ray Serve."""

from __future__ import annotations

from rivals.entrant import SERVERS, Server
from rivals.shapes import data, same

ECHO = Server(
    name="Ray Serve",
    command=lambda place: [str(place.python), str(SERVERS / "ray_echo.py"), str(place.port)],
    path="/",
    ask=data,
    read=same,
    packages=("ray[serve]==2.60.0",),
    variables={"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_USAGE_STATS_ENABLED": "0"},
    needs_isolation=True,
)
