"""From a step's name and options to the step.

A name without a colon is one of ours. Any other is ``package.module:Class``, which is called with the options as
keyword arguments (and with ``folder``, where it has such a parameter), or ``package.module:function``, which takes
the arrays and, as keyword arguments, the options::

    import numpy as np

    def invert(tensors: dict[str, np.ndarray], *, white: int = 255) -> dict[str, np.ndarray]:
        return {"image": white - tensors["image"]}
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec

from shoal.config import StepConfig
from shoal.errors import ConfigError, EngineFailed, ModelLoadFailed, ShoalError
from shoal.model_registry import is_tensors
from shoal.preproc.base import Step
from shoal.types import DTYPES, StepSpec, Tensors, TensorSpec

#: Imported when they are made, as each may need a package of its own. Any may stand on either side of the engine.
BUILT_IN: Final[Mapping[str, str]] = MappingProxyType(
    {
        "normalize_text": "shoal.preproc.text:NormalizeText",
        "tokenize": "shoal.preproc.tokenize:Tokenize",
        "decode_image": "shoal.preproc.image:DecodeImage",
        "resize": "shoal.preproc.image:Resize",
        "normalize": "shoal.preproc.normalize:Normalize",
        "softmax": "shoal.postproc.softmax:Softmax",
        "top_k": "shoal.postproc.top_k:TopK",
        "mean_pool": "shoal.postproc.mean_pool:MeanPool",
        "ctc_decode": "shoal.postproc.ctc_decode:CtcDecode",
    }
)
_EXTRAS: Final = {"PIL": "image"}  # module: extra of ours that brings it


def read_step(config: StepConfig) -> StepSpec:
    """``tokenize`` or ``{resize: {width: 224, height: 224}}``. Raises :class:`~shoal.errors.ConfigError`."""
    named = {config: {}} if isinstance(config, str) else config
    if len(named) != 1:
        raise ConfigError(f"a step is one name with its options, not {', '.join(named) or 'nothing'}", param="preproc")
    ((name, options),) = named.items()
    if ":" not in name and name not in BUILT_IN:
        raise ConfigError(
            f"there is no step '{name}'; there are {', '.join(BUILT_IN)}, and yours as package.module:Class",
            param="preproc",
        )
    return StepSpec(name, options)


def make_step(spec: StepSpec, folder: Path | None) -> Step:
    """Raises :class:`~shoal.errors.ModelLoadFailed` that names the step and, where it is one, the option."""
    try:
        target = _resolve(BUILT_IN.get(spec.name, spec.name))
        if isinstance(getattr(target, "Options", None), type):
            made: Step = target(msgspec.convert(spec.options, target.Options), folder)
            return made
        return _UserStep(spec, _construct(target, spec.options, folder))
    except ShoalError as error:
        raise ModelLoadFailed(f"step '{spec.name}': {error.message}") from error
    except msgspec.ValidationError as error:
        raise ModelLoadFailed(f"step '{spec.name}': {error}") from error
    except ImportError as error:
        raise ModelLoadFailed(f"step '{spec.name}': {error}{_hint(error)}") from error
    except Exception as error:  # the border to the user's code
        raise ModelLoadFailed(f"step '{spec.name}': {type(error).__name__}: {error}") from error


def _resolve(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _hint(error: ImportError) -> str:
    extra = _EXTRAS.get((error.name or "").partition(".")[0])
    return f"; pip install 'shoal[{extra}]'" if extra else ""


def _construct(target: Any, options: dict[str, Any], folder: Path | None) -> Any:
    if not inspect.isclass(target):
        inspect.signature(target).bind({}, **options)  # a wrong option shows now and not with the first request
        return functools.partial(target, **options)
    make: Callable[..., Any] = target
    takes_folder = "folder" in inspect.signature(make).parameters
    return make(**options, folder=folder) if takes_folder else make(**options)


class _UserStep:
    """A step of the user's, which may say less of itself than ours and return anything."""

    def __init__(self, spec: StepSpec, function: Any) -> None:
        self._name = spec.name
        self._function = function
        # A partial has no attributes of the function that it wraps.
        described = function.func if isinstance(function, functools.partial) else function
        self.inputs = _specs(described, "inputs")
        self.outputs = _specs(described, "outputs")

    def __call__(self, tensors: Tensors) -> Tensors:
        made = self._function(tensors)
        if not is_tensors(made):
            raise EngineFailed("it must return a dict of names and numpy arrays")
        return made


def _specs(described: object, attribute: str) -> tuple[TensorSpec, ...]:
    specs = tuple(getattr(described, attribute, ()))
    for spec in specs:
        if not isinstance(spec, TensorSpec) or spec.dtype not in DTYPES:
            raise ModelLoadFailed(f"its {attribute} must be TensorSpec values with a dtype of {', '.join(DTYPES)}")
    return specs
