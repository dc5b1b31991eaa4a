"""Four sources joined: a flag wins over an environment variable, that over the file, that over the default.

``SHOAL_COORDINATOR_PORT`` is ``coordinator.port``: the path in capitals. Every value remembers where it came from.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

from shoal.config.limits import TenantConfig
from shoal.config.models import ModelConfig
from shoal.config.sections import Config
from shoal.errors import ConfigError, located

FILE_VARIABLE = "SHOAL_CONFIG"  # names the file
_OF_COMMANDS = (FILE_VARIABLE, "SHOAL_ADDRESS", "SHOAL_URL")  # what they ask

_UNKNOWN = re.compile(r"unknown field `(?P<name>[^`]*)`")


@dataclass(frozen=True, slots=True)
class Settings:
    config: Config
    origins: Mapping[str, str]  # "coordinator.port" -> "flag", "SHOAL_COORDINATOR_PORT", "file", "default"


def leaves(struct: type[msgspec.Struct] = Config, prefix: str = "") -> Iterator[tuple[str, msgspec.structs.FieldInfo]]:
    """Every single value of the configuration with its dotted path."""
    for field in msgspec.structs.fields(struct):
        path = f"{prefix}{field.name}"
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield from leaves(field.type, f"{path}.")
        else:
            yield path, field


def is_table(field: msgspec.structs.FieldInfo) -> bool:
    """Is it a table of names? Such a one can be given in a file alone."""
    return _container(field) is dict


def description(field: msgspec.structs.FieldInfo) -> str:
    metas = getattr(field.type, "__metadata__", ())
    return next((meta.description for meta in metas if meta.description), "")


def unknown_variables(environment: Mapping[str, str] | None = None) -> Iterator[tuple[str, str]]:
    """Variables that look like a setting and are none, each with the setting that is nearest, or nothing."""
    environment = os.environ if environment is None else environment
    known = [*_OF_COMMANDS, *(variable(path) for path, field in leaves() if not is_table(field))]
    for name in sorted(environment):
        if name.startswith("SHOAL_") and name not in known:
            yield name, _nearest(name, known)


def _nearest(name: str, names: Sequence[str]) -> str:
    return next(iter(get_close_matches(name, names, 1, cutoff=0.7)), "")


def _container(field: msgspec.structs.FieldInfo) -> object:
    """``dict`` or ``tuple`` where it holds several values."""
    bare = get_args(field.type)[0] if get_origin(field.type) is Annotated else field.type
    return get_origin(bare)


def value_at(config: Config, path: str) -> Any:
    value: Any = config
    for part in path.split("."):
        value = getattr(value, part)
    return value


def variable(path: str) -> str:
    """The environment variable of a configuration path."""
    return "SHOAL_" + path.replace(".", "_").upper()


def load(
    *,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Settings:
    """Join the four sources. Raises :class:`ConfigError` that names the value and what is wrong with it."""
    environment = os.environ if environment is None else environment
    given = {path: value for path, value in (flags or {}).items() if value is not None}
    tree = _read(file) if file else {}
    origins: dict[str, str] = {}
    for path, field in leaves():
        if path in given:
            _put(tree, path, given[path])
            origins[path] = "flag"
        elif (name := variable(path)) in environment and not is_table(field):
            _put(tree, path, _parse(environment[name], field, name))
            origins[path] = name
        else:
            origins[path] = "file" if _has(tree, path) else "default"
    try:
        config = msgspec.convert(tree, Config)
    except msgspec.ValidationError as error:
        raise _refusal(error, origins, file, tree) from error
    return Settings(config, origins)


def cache_folder(config: Config, environment: Mapping[str, str] | None = None) -> Path:
    """Where models are kept: configured, or the user's cache folder by the XDG convention."""
    environment = os.environ if environment is None else environment
    if config.cache_dir:
        return Path(config.cache_dir).expanduser()
    base = environment.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "shoal"


def _read(file: Path) -> dict[str, Any]:
    try:
        tree = msgspec.yaml.decode(file.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"configuration file {file} does not exist") from None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file {file}: {error}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"configuration file {file}: expected sections, got {type(tree).__name__}")
    return tree


def _parse(text: str, field: msgspec.structs.FieldInfo, name: str) -> Any:
    """A value from the environment is text; a list is comma-separated."""
    is_list = _container(field) is tuple
    raw: Any = [part.strip() for part in text.split(",") if part.strip()] if is_list else text
    try:
        return msgspec.convert(raw, field.type, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {error}") from error


def _refusal(
    error: msgspec.ValidationError, origins: Mapping[str, str], file: Path | None, tree: Mapping[str, Any]
) -> ConfigError:
    """Which value of which source is wrong, and what it may have been meant to be."""
    field, reason = located(error)
    source = "flag" if origins.get(field) == "flag" else f"file {file}" if file else "environment"
    if allowed := _choices(field, reason):
        reason += f"; it may be {', '.join(allowed)}"
    if (unknown := _UNKNOWN.search(reason)) and (near := _nearest(unknown["name"], _names(field))):
        reason += f"; did you mean `{near}`?"
    field = _with_model(field, tree)
    return ConfigError(f"configuration {source}: {field}: {reason}" if field else f"configuration {source}: {reason}")


def _with_model(field: str, tree: Mapping[str, Any]) -> str:
    """``models[...].uri`` with the name of the model that is wrong: the library does not say which."""
    if not field.startswith("models[...]"):
        return field
    for name, settings in tree["models"].items():
        try:
            msgspec.convert(settings, ModelConfig)
        except msgspec.ValidationError:
            return field.replace("models[...]", f"models.{name}", 1)
    return field


def _type(path: str) -> Any:
    """Of a section or a setting; None where there is none."""
    found: Any = Config
    for part in filter(None, path.replace("[...]", "[]").split(".")):
        if not (isinstance(found, type) and issubclass(found, msgspec.Struct)):
            return None
        known = {field.name: field.type for field in msgspec.structs.fields(found)}
        found = {"models[]": ModelConfig, "tenants[]": TenantConfig}.get(part) or known.get(part)
    return found


def _names(section: str) -> Sequence[str]:
    """What may stand in a section; nothing where it is not one of these settings."""
    struct = _type(section)
    is_section = isinstance(struct, type) and issubclass(struct, msgspec.Struct)
    return tuple(field.name for field in msgspec.structs.fields(struct)) if is_section else ()


def _choices(path: str, reason: str) -> Sequence[str]:
    """What a setting that is one of a few words may be, if that is what is wrong with it."""
    if not reason.startswith("Invalid enum value"):
        return ()
    kind = _type(path)
    bare = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    return get_args(bare) if get_origin(bare) is Literal else ()


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        below = tree.get(parent)
        if not isinstance(below, dict):
            below = tree[parent] = {}
        tree = below
    tree[last] = value


def _has(tree: Mapping[str, Any], path: str) -> bool:
    node: Any = tree
    for part in path.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return False
        node = node[part]
    return True
