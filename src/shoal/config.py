"""The configuration: a few frozen values, one place that reads the environment, and a written-down precedence.

A flag wins over an environment variable, that over the file, that over the default. ``SHOAL_COORDINATOR_PORT``
is ``coordinator.port``: the path in capitals. Every value remembers where it came from.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

from shoal.errors import ConfigError, located

FILE_VARIABLE = "SHOAL_CONFIG"  # names the file
_OF_COMMANDS = (FILE_VARIABLE, "SHOAL_ADDRESS", "SHOAL_URL")  # what they ask

_UNKNOWN = re.compile(r"unknown field `(?P<name>[^`]*)`")

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=365 * 86_400)]
Heartbeat = Annotated[float, msgspec.Meta(ge=0.01, le=3600)]  # seconds
Count = Annotated[int, msgspec.Meta(ge=1)]


def about(description: str) -> msgspec.Meta:
    """What a setting is, as ``shoal config`` shows it."""
    return msgspec.Meta(description=description)


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class CoordinatorConfig(_Section, frozen=True):
    host: Annotated[str, about("where to listen; loopback unless told otherwise")] = "127.0.0.1"
    port: Annotated[Port, about("for HTTP, native clients and workers; 0: any that is free")] = 9000
    zone: Annotated[str, about("workers of the same zone are preferred")] = ""
    workers: Annotated[tuple[str, ...], about("HOST:PORT of workers to call; others may register themselves")] = ()
    max_in_flight: Annotated[Count, about("requests admitted at a time; beyond: 429")] = 1024
    request_timeout: Annotated[Seconds, about("seconds, when the client sets no deadline")] = 300.0
    heartbeat_interval: Annotated[Heartbeat, about("seconds between reports, asked of the workers")] = 0.5
    drain_timeout: Annotated[Seconds, about("seconds that running requests have to end when it stops")] = 30.0
    admin: Annotated[Literal["local", "any"], about("who may call /admin: clients on this machine, or anybody")] = (
        "local"
    )


class WorkerConfig(_Section, frozen=True):
    host: Annotated[str, about("where to listen; loopback unless told otherwise")] = "127.0.0.1"
    port: Annotated[Port, about("for coordinators; 0: any that is free")] = 9001
    coordinators: Annotated[tuple[str, ...], about("HOST:PORT to register with; with none, any may call")] = ()
    models: Annotated[tuple[str, ...], about("what to load: NAME[@VERSION] or NAME[@VERSION]=URI")] = ()
    replicas: Annotated[
        tuple[str, ...], about("which of the file's models to load, NAME[@VERSION][#SHARD]; none: all of them")
    ] = ()
    allow: Annotated[
        tuple[str, ...],
        about("what coordinators may have it load beside its own and built-in models: folders, package.module:Class"),
    ] = ()
    capacity: Annotated[Count, about("requests held at a time, running and waiting")] = 128
    cpus: Annotated[tuple[int, ...], about("cores to stay on; none: wherever the system puts it")] = ()
    zone: Annotated[str, about("where it stands; coordinators prefer their own zone")] = ""
    weight: Annotated[float, msgspec.Meta(gt=0, le=1000), about("its share of the work beside others")] = 1.0
    role: Annotated[Literal["prefill", "decode", "both"], about("what it computes of a generated answer")] = "both"
    drain_timeout: Annotated[Seconds, about("seconds that running requests have to end when it stops")] = 30.0


class ServeConfig(_Section, frozen=True):
    workers: Annotated[Count, about("worker processes that shoal serve starts")] = 2


class EngineConfig(_Section, frozen=True):
    kv_tokens: Annotated[int, msgspec.Meta(ge=256), about("KV room of a language model, tokens over all requests")] = (
        16384
    )
    max_sequences: Annotated[int, msgspec.Meta(ge=1, le=256), about("generated at a time by one replica")] = 32


class LogConfig(_Section, frozen=True):
    level: Annotated[Literal["debug", "info", "warning", "error"], about("the least that is logged")] = "info"
    format: Annotated[Literal["console", "json"], about("for people, or JSON for programs")] = "console"


class PreprocConfig(_Section, frozen=True):
    processes: Annotated[
        int, msgspec.Meta(ge=0, le=256), about("for the steps before and after inference; 0: none")
    ] = 0


class CacheConfig(_Section, frozen=True):
    """The response cache of a coordinator, over all models that use it."""

    max_bytes: Annotated[Count, about("of answers kept in memory")] = 64 * 2**20
    max_entries: Annotated[Count, about("answers kept in memory")] = 65_536
    url: Annotated[str, about("sqlite:///FILE keeps answers over restarts; empty: memory alone")] = ""
    max_disk_bytes: Annotated[Count, about("of answers kept on disk")] = 2**30


class RegistryConfig(_Section, frozen=True):
    url: Annotated[str, about("embedded:///FILE keeps models and aliases over restarts; empty: memory alone")] = ""


class JobsConfig(_Section, frozen=True):
    ttl: Annotated[Seconds, about("seconds that a finished job is kept")] = 3600.0
    max_jobs: Annotated[Count, about("kept and running")] = 4096
    max_bytes: Annotated[Count, about("of their results together")] = 256 * 2**20


class TelemetryConfig(_Section, frozen=True):
    otlp_endpoint: Annotated[str, about("where spans go, such as http://127.0.0.1:4318; empty: no tracing")] = ""
    sample: Annotated[float, msgspec.Meta(ge=0, le=1), about("share of the traces that begin here")] = 1.0


# -- what is set for each model


class TensorConfig(_Section, frozen=True):
    name: str
    dtype: str
    shape: tuple[int, ...]


class ResourceConfig(_Section, frozen=True):
    """What one replica needs; 0: not known."""

    cpus: Annotated[int, msgspec.Meta(ge=0)] = 0
    memory_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0


class BatchConfig(_Section, frozen=True):
    max_rows: Count = 32  # of one run
    max_wait: Annotated[float, msgspec.Meta(ge=0)] = 0.005  # seconds that a request waits for company
    max_queue_rows: Count = 4096  # waiting; beyond: 429. Two of the largest requests for embeddings
    target_latency: Seconds | None = None  # seconds: fit the cost of a run and choose the size that meets this
    buckets: tuple[
        Count, ...
    ] = ()  # a free dimension is padded up to the next of these, so that requests can share a run


class ResponseCacheConfig(_Section, frozen=True):
    ttl: Seconds = 300.0
    any_request: bool = False  # also those whose answer is drawn at random


class ShardConfig(_Section, frozen=True):
    count: Annotated[int, msgspec.Meta(ge=1, le=256)]
    by: Literal["hash", "consistent_hash", "range"] = "hash"
    key: str = ""  # the input whose rows choose their shard; empty: the request's key does
    bounds: tuple[str, ...] = ()  # for range: the first key of every shard but the first, in order

    def __post_init__(self) -> None:
        if self.by != "range" and self.bounds:
            raise ValueError(f"bounds are for shards by range, not by {self.by}")
        if self.by == "range" and len(self.bounds) != self.count - 1:
            raise ValueError(f"{self.count} ranges need {self.count - 1} bounds, not {len(self.bounds)}")
        numbers = self.numeric_bounds
        order: Sequence[Any] = self.bounds if numbers is None else numbers
        if any(bound >= following for bound, following in pairwise(order)):
            raise ValueError(f"bounds must ascend as {'text' if numbers is None else 'numbers'}")

    @property
    def numeric_bounds(self) -> tuple[float, ...] | None:
        """The bounds if all of them are numbers: then keys are compared as such, else as text."""
        try:
            return tuple(map(parse_number, self.bounds)) or None
        except ValueError:
            return None


def parse_number(text: str) -> float:
    """Whole numbers keep all their digits. Raises :class:`ValueError`, also for what cannot be ordered."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if math.isnan(number):
            raise
        return number


#: A step's name, or one name with its options.
StepConfig = str | dict[str, dict[str, Any]]

Balancing = Literal[
    "round_robin", "least_connections", "random", "least_latency", "power_of_two", "weighted_round_robin"
]


class ModelConfig(_Section, frozen=True):
    """One version of a model. The name it is under is ``NAME``, or ``NAME@VERSION`` where there are several."""

    uri: str = ""  # empty: only the workers that have it know
    aliases: tuple[str, ...] = ()
    inputs: tuple[TensorConfig, ...] = ()  # empty: what the model says itself
    outputs: tuple[TensorConfig, ...] = ()
    batchable: bool | None = None  # None: what the model says itself
    quantized: bool = False
    resources: ResourceConfig = ResourceConfig()
    preproc: tuple[StepConfig, ...] = ()
    postproc: tuple[StepConfig, ...] = ()
    step_timeout: Seconds = 30.0  # for the steps of one request before inference, and again for those after it
    batching: BatchConfig = BatchConfig()
    cache: ResponseCacheConfig | None = None  # None: off
    coalesce: bool = False  # identical requests in flight run once
    balancing: Balancing = "least_connections"
    shards: ShardConfig | None = None
    fallback: tuple[str, ...] = ()  # models to ask, in order, when this one is ready nowhere
    timeout: Seconds | None = None  # for a request without a deadline; None: the coordinator's


class Config(_Section, frozen=True):
    coordinator: CoordinatorConfig = CoordinatorConfig()
    worker: WorkerConfig = WorkerConfig()
    serve: ServeConfig = ServeConfig()
    engine: EngineConfig = EngineConfig()
    preproc: PreprocConfig = PreprocConfig()
    cache: CacheConfig = CacheConfig()
    registry: RegistryConfig = RegistryConfig()
    jobs: JobsConfig = JobsConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    log: LogConfig = LogConfig()
    cache_dir: Annotated[str, about("where models are kept; empty: the user's cache folder")] = ""
    models: Annotated[dict[str, ModelConfig], about("NAME or NAME@VERSION, and its settings")] = {}
    aliases: Annotated[
        dict[str, str | dict[str, Count]], about("to NAME, NAME@VERSION, or several of them with weights")
    ] = {}


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
        raise _refusal(error, origins, file) from error
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


def _refusal(error: msgspec.ValidationError, origins: Mapping[str, str], file: Path | None) -> ConfigError:
    """Which value of which source is wrong, and what it may have been meant to be."""
    field, reason = located(error)
    source = "flag" if origins.get(field) == "flag" else f"file {file}" if file else "environment"
    if (unknown := _UNKNOWN.search(reason)) and (near := _nearest(unknown["name"], _names(field))):
        reason += f"; did you mean `{near}`?"
    return ConfigError(f"configuration {source}: {field}: {reason}" if field else f"configuration {source}: {reason}")


def _names(section: str) -> Sequence[str]:
    """What may stand in a section; nothing where it is not one of these settings."""
    struct: Any = Config
    for part in filter(None, section.replace("[...]", "[]").split(".")):
        known = {field.name: field.type for field in msgspec.structs.fields(struct)}
        struct = ModelConfig if part == "models[]" else known.get(part)
        if not (isinstance(struct, type) and issubclass(struct, msgspec.Struct)):
            return ()
    return tuple(field.name for field in msgspec.structs.fields(struct))


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
