"""The configuration: a few frozen values, one place that reads the environment, and a written-down precedence.

A flag wins over an environment variable, that over the file, that over the default. ``SHOAL_COORDINATOR_PORT``
is ``coordinator.port``: the path in capitals. Every value remembers where it came from.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from shoal.errors import ConfigError

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class CoordinatorConfig(_Section, frozen=True):
    host: str = "127.0.0.1"
    port: Port = 9000
    workers: tuple[str, ...] = ()  # HOST:PORT of workers to call; others may register themselves
    max_in_flight: Count = 1024  # requests admitted at a time; beyond: 429
    request_timeout: Seconds = 300.0  # when the client sets no deadline
    heartbeat_interval: Seconds = 1.0  # asked of the workers
    drain_timeout: Seconds = 30.0


class WorkerConfig(_Section, frozen=True):
    host: str = "127.0.0.1"
    port: Port = 9001
    coordinators: tuple[str, ...] = ()  # HOST:PORT to register with; others may call
    models: tuple[str, ...] = ()  # NAME or NAME=URI
    capacity: Count = 128  # requests held at a time, running and waiting
    cpus: tuple[int, ...] = ()  # cores to stay on; none: wherever the system puts it
    zone: str = ""
    role: Literal["prefill", "decode", "both"] = "both"
    drain_timeout: Seconds = 30.0


class ServeConfig(_Section, frozen=True):
    workers: Count = 2


class EngineConfig(_Section, frozen=True):
    kv_tokens: Annotated[int, msgspec.Meta(ge=256)] = 16384  # KV room of a language model, tokens over all requests
    max_sequences: Annotated[int, msgspec.Meta(ge=1, le=256)] = 32  # generated at a time by one replica


class LogConfig(_Section, frozen=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] = "console"


class ModelConfig(_Section, frozen=True):
    uri: str
    aliases: tuple[str, ...] = ()


class Config(_Section, frozen=True):
    coordinator: CoordinatorConfig = CoordinatorConfig()
    worker: WorkerConfig = WorkerConfig()
    serve: ServeConfig = ServeConfig()
    engine: EngineConfig = EngineConfig()
    log: LogConfig = LogConfig()
    cache_dir: str = ""  # where models are kept; empty: the user's cache folder
    models: dict[str, ModelConfig] = {}


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
        elif (name := variable(path)) in environment and path != "models":
            _put(tree, path, _parse(environment[name], field, name))
            origins[path] = name
        else:
            origins[path] = "file" if _has(tree, path) else "default"
    try:
        config = msgspec.convert(tree, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"configuration: {error}") from error
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
    is_list = getattr(field.type, "__origin__", None) is tuple
    raw: Any = [part.strip() for part in text.split(",") if part.strip()] if is_list else text
    try:
        return msgspec.convert(raw, field.type, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {error}") from error


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
