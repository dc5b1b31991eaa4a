"""Triton's server and its Python back end, both from the wheel of PyTriton.

Its back end for Python 3.11 needs the system's Python 3.11 library (Debian: libpython3.11).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from rivals.entrant import SERVERS, Place, Server
from rivals.models import MINILM, MINILM_PACKAGES
from rivals.shapes import output, tensor

PACKAGES: Final = ("nvidia-pytriton==0.7.0",)

_ECHO: Final = """
backend: "python"
input [{ name: "input", data_type: TYPE_INT64, dims: [-1] }]
output [{ name: "output", data_type: TYPE_INT64, dims: [-1] }]
instance_group [{ kind: KIND_CPU, count: 1 }]
"""

_EMBEDDINGS: Final = """
backend: "python"
max_batch_size: 32
input [{ name: "input", data_type: TYPE_STRING, dims: [1] }]
output [{ name: "output", data_type: TYPE_FP32, dims: [384] }]
instance_group [{ kind: KIND_CPU, count: 1 }]
dynamic_batching { max_queue_delay_microseconds: 10000 }
"""


def _run(script: str, config: str) -> Callable[[Place], Sequence[str]]:
    """The server with one model, whose code is ``script``."""

    def command(place: Place) -> Sequence[str]:
        version = place.folder / "models" / "model" / "1"
        version.mkdir(parents=True)
        (version.parent / "config.pbtxt").write_text(config)
        shutil.copyfile(SERVERS / script, version / "model.py")
        shutil.copyfile(SERVERS / "minilm.py", version / "minilm.py")  # the back end looks for modules here alone
        (home,) = place.python.parent.parent.glob("lib/python*/site-packages/pytriton/tritonserver")
        return [
            "env",
            f"LD_LIBRARY_PATH={home.parent.parent / 'nvidia_pytriton.libs'}",
            str(home / "bin" / "tritonserver"),
            f"--model-repository={version.parent.parent}",
            f"--backend-directory={_back_ends(home, place.folder)}",
            "--http-address=127.0.0.1",
            f"--http-port={place.port}",
            "--allow-grpc=false",
            "--allow-metrics=false",
            "--exit-timeout-secs=5",
        ]

    return command


def _back_ends(home: Path, folder: Path) -> Path:
    """With the program that belongs to this version of Python."""
    python = folder / "backends" / "python"
    shutil.copytree(home / "backends" / "python", python)
    shutil.copy(home / "python_backend_stubs" / "3.11" / "triton_python_backend_stub", python)
    return python.parent


def _text(text: str) -> Any:
    return {"inputs": [{"name": "input", "shape": [1, 1], "datatype": "BYTES", "data": [text]}]}


ECHO = Server(
    name="Triton",
    command=_run("triton_echo.py", _ECHO),
    path="/v2/models/model/infer",
    ask=tensor,
    read=output,
    packages=PACKAGES,
)

EMBEDDINGS = Server(
    name="Triton, ONNX Runtime",
    command=_run("triton_embeddings.py", _EMBEDDINGS),
    path="/v2/models/model/infer",
    ask=_text,
    read=output,
    packages=(*PACKAGES, *MINILM_PACKAGES, "numpy==1.26.4"),
    variables={"MINILM": str(MINILM)},
)
