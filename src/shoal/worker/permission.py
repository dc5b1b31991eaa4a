"""What a coordinator may have this worker load.

A model's URI can name a Python class and a step a function: to load them is to run their code. Whoever reaches the
worker's port may ask for it, so the worker's own configuration decides, and not who asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any, Final

from shoal.config import StepConfig
from shoal.errors import Forbidden
from shoal.model_registry import ModelSpec, Source

_FILES: Final = (Source.GGUF, Source.ONNX)


class Permission:
    """``allow``: folders whose model files may be loaded, and classes, functions and addresses by their whole name.
    ``own``: the models of the worker's configuration; what they name is permitted too. So are built-in models."""

    def __init__(self, allow: Sequence[str], own: Iterable[ModelSpec]) -> None:
        self._names = set(allow)
        self._folders = tuple(Path(entry).expanduser().resolve() for entry in allow if entry and ":" not in entry)
        for spec in own:
            self._names |= {spec.target, *_code_of_steps(spec)}

    def check(self, spec: ModelSpec) -> None:
        """Raises :class:`Forbidden` that says what would have to be allowed."""
        if not self._permits_target(spec):
            raise _refusal(spec, spec.target)
        for name in _code_of_steps(spec):
            if name not in self._names:
                raise _refusal(spec, name)
        for _, options in _steps(spec):
            for text in _texts(options):
                if _leaves_the_folder(text):
                    raise _refusal(spec, text)

    def _permits_target(self, spec: ModelSpec) -> bool:
        if spec.source is Source.BUILT_IN or spec.target in self._names:
            return True
        if spec.source not in _FILES:
            return False
        # Resolved, so that neither dots nor links lead out of the folder.
        file = Path(spec.target).expanduser().resolve()
        return any(file.is_relative_to(folder) for folder in self._folders)


def _refusal(spec: ModelSpec, what: str) -> Forbidden:
    return Forbidden(f"model '{spec.id}' needs '{what[:200]}', which worker.allow does not name", param="settings")


def _steps(spec: ModelSpec) -> Iterator[tuple[str, Any]]:
    for step in (*spec.settings.preproc, *spec.settings.postproc):
        yield from _named(step).items()


def _named(step: StepConfig) -> dict[str, dict[str, Any]]:
    return {step: {}} if isinstance(step, str) else step


def _code_of_steps(spec: ModelSpec) -> list[str]:
    return [name for name, _ in _steps(spec) if ":" in name]


def _texts(options: Any) -> Iterator[str]:
    if isinstance(options, str):
        yield options
    elif isinstance(options, dict):
        for value in options.values():
            yield from _texts(value)
    elif isinstance(options, list):
        for value in options:
            yield from _texts(value)


def _leaves_the_folder(text: str) -> bool:
    """Would it, as the name of a file beside the model, be one somewhere else?"""
    path = PurePath(text)
    return len(path.parts) > 1 and (path.is_absolute() or ".." in path.parts)
