"""``NAME[@VERSION][=URI]``, as on a command line or in the configuration, to a :class:`ModelSpec`.

A URI may end in options: ``models/fish.gguf?engine=llama``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from types import MappingProxyType
from typing import Final
from urllib.parse import parse_qsl

import msgspec

from shoal.config import ModelConfig, TensorConfig
from shoal.errors import ConfigError
from shoal.model_registry.spec import Engine, ModelSpec, Source
from shoal.types import DTYPES, FIRST_VERSION, ModelKind, ModelName, TensorSpec, Version

DEFAULT_ALIAS: Final = ModelName("default")
DEFAULT_MODEL: Final = "smollm2"  # what ``shoal serve default`` loads


@dataclass(frozen=True, slots=True)
class Family:
    """What all models of one source, or one built-in model, have in common."""

    kind: ModelKind
    engines: tuple[Engine, ...]  # that can run it


BUILT_IN: Final[Mapping[str, Family]] = MappingProxyType(
    {
        "smollm2": Family(ModelKind.GENERATE, (Engine.OPENVINO, Engine.LLAMA)),
        "minilm": Family(ModelKind.TENSOR, (Engine.ONNX, Engine.OPENVINO)),
        "ocr": Family(ModelKind.TENSOR, (Engine.ONNX, Engine.OPENVINO)),
        "echo": Family(ModelKind.TENSOR, (Engine.ECHO,)),
    }
)
_FAMILIES: Final[Mapping[Source, Family]] = {
    Source.GGUF: Family(ModelKind.GENERATE, (Engine.OPENVINO, Engine.LLAMA)),
    Source.ONNX: Family(ModelKind.TENSOR, (Engine.ONNX, Engine.OPENVINO)),
    Source.PYTHON: Family(ModelKind.TENSOR, (Engine.PYTHON, Engine.LANGUAGE)),
    Source.OPENAI: Family(ModelKind.GENERATE, (Engine.OPENAI,)),
}

_FORMS = (
    f"a built-in name ({', '.join((*BUILT_IN, DEFAULT_ALIAS))}), a path to a .gguf or .onnx file, "
    "package.module:Class, or openai+http://HOST:PORT"
)
# Names stand in URLs, metrics and file names, so they hold nothing that means something there.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}(@[A-Za-z0-9][A-Za-z0-9._-]{0,31})?")
_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)")
_SUFFIXES = {".gguf": Source.GGUF, ".onnx": Source.ONNX}


def parse_model_argument(argument: str) -> ModelSpec:
    """Read ``NAME``, ``NAME=URI`` or ``URI``, with ``@VERSION`` behind the NAME where it matters.

    Raises :class:`ConfigError` that says what was expected. Without a NAME, a built-in model keeps its own and a file
    gives it its stem.
    """
    before, equals, after = argument.partition("=")
    # An equals sign behind anything but a name belongs to the URI: a folder, or an option.
    if equals and _ID.fullmatch(before):
        return make_spec(before, ModelConfig(uri=after))
    target, question, options = argument.partition("?")
    bare, at, version = target.partition("@")
    if bare in BUILT_IN or bare == DEFAULT_ALIAS:
        name = DEFAULT_MODEL if bare == DEFAULT_ALIAS else bare
        return make_spec(name + at + version, ModelConfig(uri=name + question + options))
    return make_spec(_own_name(classify(target), target), ModelConfig(uri=argument))


def make_spec(model_id: str, settings: ModelConfig) -> ModelSpec:
    """The model called ``NAME`` or ``NAME@VERSION`` with these settings. Raises :class:`ConfigError`."""
    name, version = parse_model_id(model_id)
    target, question, options = settings.uri.partition("?")
    if target == DEFAULT_ALIAS:
        target = DEFAULT_MODEL
        settings = msgspec.structs.replace(settings, uri=target + question + options)
    source = classify(target)
    family = BUILT_IN[target] if source is Source.BUILT_IN else _FAMILIES[source]
    engine = _engine(options, family, settings.uri) if question else Engine.AUTO
    kind = ModelKind.GENERATE if engine is Engine.LANGUAGE else family.kind
    if settings.shards is not None and kind is ModelKind.GENERATE:
        raise ConfigError(f"model '{model_id}' generates text; only a tensor model can be in shards", param="shards")
    return ModelSpec(
        name=name,
        version=version or FIRST_VERSION,
        kind=kind,
        source=source,
        engine=engine,
        settings=settings,
        inputs=_tensors(settings.inputs, model_id, "inputs"),
        outputs=_tensors(settings.outputs, model_id, "outputs"),
        batchable=settings.batchable,
    )


def parse_model_id(text: str) -> tuple[ModelName, Version | None]:
    """Read ``NAME`` or ``NAME@VERSION``. Raises :class:`ConfigError`."""
    if not _ID.fullmatch(text):
        raise ConfigError(
            f"'{text[:200]}' cannot be a model's name; put NAME= before the URI, with a NAME of at most 64 letters, "
            "digits, dots, dashes and underscores, and @VERSION of the same kind behind it where there are several",
            param="model",
        )
    name, _, version = text.partition("@")
    return ModelName(name), Version(version) if version else None


def classify(target: str) -> Source:
    """What a URI without options points at, from its text alone; whether it is there shows when it is loaded."""
    if scheme := _SCHEME.fullmatch(target):
        return _classify_scheme(target, *scheme.groups())
    if source := _SUFFIXES.get(PurePath(target).suffix.lower()):
        return source
    if _CLASS.fullmatch(target):
        return Source.PYTHON
    if target in BUILT_IN:
        return Source.BUILT_IN
    raise ConfigError(f"'{target}' is not a model; give {_FORMS}", param="model")


def _classify_scheme(target: str, scheme: str, rest: str) -> Source:
    if scheme in ("openai+http", "openai+https"):
        if not rest.partition("/")[0]:
            raise ConfigError(f"'{target}' names no host; give {scheme}://HOST:PORT", param="model")
        return Source.OPENAI
    if scheme == "hf":
        raise ConfigError(f"'{target}': hf:// is not built in this version; give {_FORMS}", param="model")
    raise ConfigError(f"'{target}': '{scheme}://' is not known; give {_FORMS}", param="model")


def _own_name(source: Source, target: str) -> str:
    if source is Source.BUILT_IN:
        return target
    if source in (Source.GGUF, Source.ONNX):
        return PurePath(target).stem
    raise ConfigError(f"'{target}' needs a name: NAME={target}", param="model")


def _tensors(tensors: Sequence[TensorConfig], model_id: str, field: str) -> tuple[TensorSpec, ...]:
    for at, tensor in enumerate(tensors):
        if (wrong := _wrong(tensor, tensors[:at])) is not None:
            raise ConfigError(f"model '{model_id}': {field}[{at}]: {wrong}", param=field)
    return tuple(TensorSpec(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors)


def _wrong(tensor: TensorConfig, before: Sequence[TensorConfig]) -> str | None:
    if tensor.dtype not in DTYPES:
        return f"tensor '{tensor.name}' cannot be {tensor.dtype}; there are {', '.join(DTYPES)}"
    if any(dimension < -1 for dimension in tensor.shape):
        return f"tensor '{tensor.name}' cannot have shape {list(tensor.shape)}; -1 stands for any length"
    if any(tensor.name == other.name for other in before):
        return f"there are two tensors called '{tensor.name}'"
    return None


def _engine(options: str, family: Family, argument: str) -> Engine:
    choices = (Engine.AUTO, *family.engines)
    try:
        ((key, value),) = parse_qsl(options, strict_parsing=True)
    except ValueError:
        key = value = ""
    if key == "engine" and value in choices:
        return Engine(value)
    raise ConfigError(f"'{argument}': after '?' comes engine={'|'.join(choices)}, not '{options}'", param="model")
