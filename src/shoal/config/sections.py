"""What is set for each part of Shoal, and all of it together."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated, Literal

import msgspec

from shoal.config.limits import TenantConfig
from shoal.config.models import ModelConfig
from shoal.config.values import Count, Heartbeat, Port, Seconds, Section, about


class CoordinatorConfig(Section, frozen=True):
    host: Annotated[str, about("where to listen; loopback unless told otherwise")] = "127.0.0.1"
    port: Annotated[Port, about("for HTTP, native clients and workers; 0: any that is free")] = 9000
    zone: Annotated[str, about("workers of the same zone are preferred")] = ""
    workers: Annotated[tuple[str, ...], about("HOST:PORT of workers to call; others may register themselves")] = ()
    max_in_flight: Annotated[Count, about("requests admitted at a time, running and waiting; beyond: 429")] = 1024
    request_timeout: Annotated[Seconds, about("seconds, when the client sets no deadline")] = 300.0
    heartbeat_interval: Annotated[Heartbeat, about("seconds between reports, asked of the workers")] = 0.5
    drain_timeout: Annotated[Seconds, about("seconds that running requests have to end when it stops")] = 30.0
    admin: Annotated[Literal["local", "any"], about("who may call /admin: clients on this machine, or anybody")] = (
        "local"
    )
    trusted_proxies: Annotated[
        tuple[str, ...], about("addresses and networks whose x-tenant is believed; none: it is refused")
    ] = ()

    def __post_init__(self) -> None:
        for network in self.trusted_proxies:
            try:
                ip_network(network)
            except ValueError as error:
                raise ValueError(f"trusted_proxies: {error}") from None


class WorkerConfig(Section, frozen=True):
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


class ServeConfig(Section, frozen=True):
    workers: Annotated[Count, about("worker processes that shoal serve starts")] = 2


class EngineConfig(Section, frozen=True):
    kv_tokens: Annotated[int, msgspec.Meta(ge=256), about("KV room of a language model, tokens over all requests")] = (
        16384
    )
    max_sequences: Annotated[int, msgspec.Meta(ge=1, le=256), about("generated at a time by one replica")] = 32


class LogConfig(Section, frozen=True):
    level: Annotated[Literal["debug", "info", "warning", "error"], about("the least that is logged")] = "info"
    format: Annotated[Literal["console", "json"], about("for people, or JSON for programs")] = "console"


class PreprocConfig(Section, frozen=True):
    processes: Annotated[
        int, msgspec.Meta(ge=0, le=256), about("for the steps before and after inference; 0: none")
    ] = 0


class CacheConfig(Section, frozen=True):
    """The response cache of a coordinator, over all models that use it."""

    max_bytes: Annotated[Count, about("of answers kept in memory")] = 64 * 2**20
    max_entries: Annotated[Count, about("answers kept in memory")] = 65_536
    url: Annotated[str, about("sqlite:///FILE keeps answers over restarts; empty: memory alone")] = ""
    max_disk_bytes: Annotated[Count, about("of answers kept on disk")] = 2**30


class RegistryConfig(Section, frozen=True):
    url: Annotated[str, about("embedded:///FILE keeps models and aliases over restarts; empty: memory alone")] = ""


class JobsConfig(Section, frozen=True):
    ttl: Annotated[Seconds, about("seconds that a finished job is kept")] = 3600.0
    max_jobs: Annotated[Count, about("kept and running")] = 4096
    max_bytes: Annotated[Count, about("of their results together")] = 256 * 2**20


class KeepConfig(Section, frozen=True):
    """Answers whose clients may come back for them."""

    grace: Annotated[Seconds, about("seconds that such a stream goes on, and is kept, without its client")] = 30.0
    ttl: Annotated[Seconds, about("seconds that a finished answer is kept for its idempotency-key")] = 600.0
    max_answers: Annotated[
        int, msgspec.Meta(ge=2), about("kept and running; half of them for those with an idempotency-key")
    ] = 4096
    max_bytes: Annotated[int, msgspec.Meta(ge=2), about("of them together, divided likewise")] = 64 * 2**20


class TelemetryConfig(Section, frozen=True):
    otlp_endpoint: Annotated[str, about("where spans go, such as http://127.0.0.1:4318; empty: no tracing")] = ""
    sample: Annotated[float, msgspec.Meta(ge=0, le=1), about("share of the traces that begin here")] = 1.0


class Config(Section, frozen=True):
    coordinator: CoordinatorConfig = CoordinatorConfig()
    worker: WorkerConfig = WorkerConfig()
    serve: ServeConfig = ServeConfig()
    engine: EngineConfig = EngineConfig()
    preproc: PreprocConfig = PreprocConfig()
    cache: CacheConfig = CacheConfig()
    registry: RegistryConfig = RegistryConfig()
    jobs: JobsConfig = JobsConfig()
    keep: KeepConfig = KeepConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    log: LogConfig = LogConfig()
    cache_dir: Annotated[str, about("where models are kept; empty: the user's cache folder")] = ""
    models: Annotated[dict[str, ModelConfig], about("NAME or NAME@VERSION, and its settings")] = msgspec.field(
        default_factory=dict
    )
    aliases: Annotated[
        dict[str, str | dict[str, Count]], about("to NAME, NAME@VERSION, or several of them with weights")
    ] = msgspec.field(default_factory=dict)
    tenants: Annotated[
        dict[str, TenantConfig], about("NAME and what it may use; 'default': each tenant that is not named here")
    ] = msgspec.field(default_factory=dict)
