"""MLServer, which speaks the Open Inference Protocol too."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from rivals.entrant import SERVERS, Place, Server
from rivals.shapes import output, tensor

PACKAGES = ("mlserver==1.7.1",)


def _run(place: Place) -> Sequence[str]:
    settings = {"host": "127.0.0.1", "http_port": place.port, "grpc_port": place.port + 1}
    # A model that costs nothing needs no processes of its own.
    settings |= {"metrics_port": place.port + 2, "parallel_workers": 0, "debug": False}
    (place.folder / "settings.json").write_bytes(msgspec.json.encode(settings))
    model = {"name": "echo", "implementation": "mlserver_echo.Echo"}
    (place.folder / "model-settings.json").write_bytes(msgspec.json.encode(model))
    return [str(place.bin / "mlserver"), "start", str(place.folder)]


ECHO = Server(
    name="MLServer",
    command=_run,
    path="/v2/models/echo/infer",
    ask=tensor,
    read=output,
    packages=PACKAGES,
    variables={"PYTHONPATH": str(SERVERS)},
)
