"""``NAME[=URI]``, as it is written on a command line or in the configuration, to a :class:`ModelSpec`.

A URI may end in options: ``models/fish.gguf?engine=llama``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from types import MappingProxyType
from typing import Final
from urllib.parse import parse_qsl

from shoal.errors import ConfigError
from shoal.model_registry.spec import Engine, ModelSpec, Source
from shoal.types import ModelKind, ModelName

DEFAULT_ALIAS: Final = ModelName("default")
DEFAULT_MODEL: Final = "smollm2"  # what ``shoal serve default`` loads


@dataclass(frozen=True, slots=True)
class Family:
    """What all models of one source, or one built-in model, have in common."""

    kind: ModelKind
    engines: tuple[Engine, ...]  # that can run it
    batchable: bool = True


BUILT_IN: Final[Mapping[str, Family]] = MappingProxyType(
    {
        "smollm2": Family(ModelKind.GENERATE, (Engine.OPENVINO, Engine.LLAMA)),
        "minilm": Family(ModelKind.TENSOR, (Engine.ONNX, Engine.OPENVINO)),
        "echo": Family(ModelKind.TENSOR, (Engine.ECHO,), batchable=False),
    }
)
_FAMILIES: Final[Mapping[Source, Family]] = {
    Source.GGUF: Family(ModelKind.GENERATE, (Engine.OPENVINO, Engine.LLAMA)),
    Source.ONNX: Family(ModelKind.TENSOR, (Engine.ONNX, Engine.OPENVINO)),
    Source.PYTHON: Family(ModelKind.TENSOR, (Engine.PYTHON,)),
    Source.OPENAI: Family(ModelKind.GENERATE, (Engine.OPENAI,)),
}

_FORMS = (
    f"a built-in name ({', '.join((*BUILT_IN, DEFAULT_ALIAS))}), a path to a .gguf or .onnx file, "
    "package.module:Class, or openai+http://HOST:PORT"
)
# Names stand in URLs, metrics and file names, so they hold nothing that means something there.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)")
_SUFFIXES = {".gguf": Source.GGUF, ".onnx": Source.ONNX}


def parse_model_argument(argument: str) -> ModelSpec:
    """Read ``NAME``, ``NAME=URI`` or ``URI``. Raises :class:`ConfigError` that says what was expected.

    Without a NAME, a built-in model keeps its own and a file gives it its stem.
    """
    before, equals, after = argument.partition("=")
    # An equals sign behind anything but a name belongs to the URI: a folder, or an option.
    name, uri = (before, after) if equals and _NAME.fullmatch(before) else ("", argument)
    target, question, options = uri.partition("?")
    if target == DEFAULT_ALIAS:
        target = DEFAULT_MODEL
    source = classify(target)
    family = BUILT_IN[target] if source is Source.BUILT_IN else _FAMILIES[source]
    return ModelSpec(
        name=_check_name(name or _own_name(source, target), argument),
        kind=family.kind,
        uri=target + question + options,
        source=source,
        engine=_engine(options, family, argument) if question else Engine.AUTO,
        batchable=family.batchable,
    )


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


def _check_name(name: str, argument: str) -> ModelName:
    if _NAME.fullmatch(name):
        return ModelName(name)
    raise ConfigError(
        f"'{argument}': the model cannot be called '{name}'; put NAME= before it, with a NAME of at most 64 letters, "
        "digits, dots, dashes and underscores",
        param="model",
    )


def _engine(options: str, family: Family, argument: str) -> Engine:
    choices = (Engine.AUTO, *family.engines)
    try:
        ((key, value),) = parse_qsl(options, strict_parsing=True)
    except ValueError:
        key = value = ""
    if key == "engine" and value in choices:
        return Engine(value)
    raise ConfigError(f"'{argument}': after '?' comes engine={'|'.join(choices)}, not '{options}'", param="model")
