"""A model that is a Python class of the user's, named ``package.module:Class``::

    import numpy as np
    from shoal.types import TensorSpec

    class Doubler:
        inputs = (TensorSpec("x", "FP32", (-1, 4)),)  # optional: checked before run
        outputs = (TensorSpec("y", "FP32", (-1, 4)),)  # optional: told to clients, and checked after run

        def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {"y": inputs["x"] * 2}

The method may also be called ``predict``. ``__init__`` may take ``options`` (an
:class:`~shoal.engines.base.EngineOptions`) and ``shard`` (its number, None where the model has no shards). ``close`` is
called at the end, where there is one. Several requests share a run, one after the other along the first axis, unless
the class says ``batchable = False``. A class that generates text is a :class:`~shoal.engines.base.LanguageEngine`
instead, and is named ``package.module:Class?engine=language``.

A class that answers in parts has a method ``stream`` instead, which yields dicts, each with all rows of the inputs::

    class Countdown:
        inputs = (TensorSpec("start", "INT64", (-1,)),)
        outputs = (TensorSpec("left", "INT64", (-1,)),)

        def stream(self, inputs: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
            for step in range(int(inputs["start"].max()) + 1):
                yield {"left": np.maximum(inputs["start"] - step, 0)}
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

from shoal.engines.base import EngineOptions, LanguageEngine, TensorEngine
from shoal.errors import EngineFailed, ModelLoadFailed, ShoalError
from shoal.model_registry import check_inputs, check_outputs, is_tensors
from shoal.types import DTYPES, Tensors, TensorSpec


class PythonEngine(TensorEngine):
    """Runs an object of the class at ``target``. Raises :class:`~shoal.errors.ModelLoadFailed`."""

    def __init__(self, target: str, options: EngineOptions) -> None:
        self._target = target
        self._model = _construct(target, options)
        self.streams = callable(getattr(self._model, "stream", None))
        self._run = _method(self._model, "stream" if self.streams else "run", target)
        self.inputs = _specs(self._model, "inputs", target)
        self.outputs = _specs(self._model, "outputs", target)
        self.batchable = bool(getattr(self._model, "batchable", True))

    def run(self, inputs: Tensors) -> Tensors:
        self._check_inputs(inputs)
        with self._failing_for_itself():
            outputs = self._run(inputs)
        return self._checked(outputs)

    def stream(self, inputs: Tensors) -> Generator[Tensors]:
        self._check_inputs(inputs)
        with self._failing_for_itself():
            parts = iter(self._run(inputs))
        try:
            while True:
                with self._failing_for_itself():
                    part = next(parts, None)
                if part is None:
                    return
                yield self._checked(part)
        finally:
            close = getattr(parts, "close", None)
            if callable(close):
                close()

    def _check_inputs(self, inputs: Tensors) -> None:
        if self.inputs:
            check_inputs(inputs, self.inputs)

    @contextmanager
    def _failing_for_itself(self) -> Iterator[None]:
        try:
            yield
        except ShoalError:
            raise  # the model knows our errors and chose one
        except (Exception, SystemExit) as error:  # the border to the user's code, which may call a tool that exits
            raise EngineFailed(f"{self._target} failed: {type(error).__name__}: {error}") from error

    def _checked(self, outputs: Any) -> Tensors:
        if not is_tensors(outputs):
            raise EngineFailed(f"{self._target} must return a dict of names and numpy arrays")
        if self.outputs:
            check_outputs(outputs, self.outputs)
        return outputs

    def close(self) -> None:
        close = getattr(self._model, "close", None)
        if callable(close):
            close()


def construct_language_engine(target: str, options: EngineOptions) -> LanguageEngine:
    """Raises :class:`~shoal.errors.ModelLoadFailed`."""
    engine = _construct(target, options)
    if not isinstance(engine, LanguageEngine):
        raise ModelLoadFailed(f"{target} is no LanguageEngine, so it cannot generate text")
    return engine


def _construct(target: str, options: EngineOptions) -> object:
    module, _, name = target.partition(":")
    try:
        made = getattr(importlib.import_module(module), name)
        offered = {"options": options, "shard": options.shard}
        taken = offered.keys() & inspect.signature(made).parameters.keys()
        instance: object = made(**{name: offered[name] for name in taken})
    except Exception as error:  # the border to the user's code
        raise ModelLoadFailed(f"cannot load {target}: {type(error).__name__}: {error}") from error
    return instance


def _method(model: object, wanted: str, target: str) -> Callable[[Tensors], Any]:
    for name in (wanted, "predict"):
        method = getattr(model, name, None)
        if callable(method):
            return method  # type: ignore[no-any-return]
    raise ModelLoadFailed(f"{target} has none of the methods 'run', 'predict' and 'stream'")


def _specs(model: object, name: str, target: str) -> tuple[TensorSpec, ...]:
    specs = tuple(getattr(model, name, ()))
    for spec in specs:
        if not isinstance(spec, TensorSpec) or spec.dtype not in DTYPES:
            raise ModelLoadFailed(f"{target}.{name} must be TensorSpec values with a dtype of {', '.join(DTYPES)}")
    return specs
