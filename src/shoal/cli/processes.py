"""``shoal serve``, ``shoal coordinator``, ``shoal worker``: the commands that keep running."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from shoal import node
from shoal.cli.pull import pull_with_progress
from shoal.cli.settings import common_options, settings
from shoal.config import Config
from shoal.telemetry import close_tracing, configure_logging, configure_tracing


@click.command()
@click.argument("models", nargs=-1, metavar="MODEL...")
@click.option("--workers", type=int, help="Worker processes to start.")
@click.option("--host", help="Address to listen on; loopback unless told otherwise.")
@click.option("--listen-port", type=int, help="Port for HTTP and native clients; workers take the ones above it.")
@click.option(
    "--preproc-processes", type=int, help="Processes of each model for the steps before and after it; 0: none."
)
@common_options
def serve(
    models: tuple[str, ...],
    workers: int | None,
    host: str | None,
    listen_port: int | None,
    preproc_processes: int | None,
    file: Path | None,
    log_level: str | None,
    log_format: str | None,
) -> None:
    """Serve MODELs: a coordinator and its workers, with one command.

    MODEL is a built-in name (smollm2, minilm, ocr, echo), NAME=URI, or a path to a .gguf or .onnx file.
    """
    found = settings(
        file,
        log_level,
        log_format,
        serve__workers=workers,
        coordinator__host=host,
        coordinator__port=listen_port,
        worker__models=models,
        preproc__processes=preproc_processes,
    )
    models_asked_for = node.configured_models(found.config)
    if not models_asked_for:
        raise click.UsageError("name at least one MODEL, such as smollm2, or give a --config file with models")
    pull_with_progress(found.config, [spec.target for spec in models_asked_for])
    run(lambda: node.ServeNode(found.config, file), found.config, "coordinator")


@click.command()
@click.option("--host", help="Address to listen on; loopback unless told otherwise.")
@click.option("--listen-port", type=int, help="Port for HTTP, native clients and workers.")
@click.option("--worker", "workers", multiple=True, metavar="HOST:PORT", help="A worker to call; may be repeated.")
@common_options
def coordinator(
    host: str | None,
    listen_port: int | None,
    workers: tuple[str, ...],
    file: Path | None,
    log_level: str | None,
    log_format: str | None,
) -> None:
    """Take requests and hand them to workers. Workers may also register themselves."""
    found = settings(
        file,
        log_level,
        log_format,
        coordinator__host=host,
        coordinator__port=listen_port,
        coordinator__workers=workers,
    )
    run(lambda: node.CoordinatorNode(found.config), found.config, "coordinator")


@click.command()
@click.option("--host", help="Address to listen on; loopback unless told otherwise.")
@click.option("--port", type=int, help="Port for coordinators.")
@click.option("--model", "models", multiple=True, metavar="NAME[=URI]", help="A model to load; may be repeated.")
@click.option(
    "--replica",
    "replicas",
    multiple=True,
    metavar="NAME[@VERSION][#SHARD]",
    help="Which of the file's models to load, and which shard; may be repeated. All of them without it.",
)
@click.option("--coordinator", "coordinators", multiple=True, metavar="HOST:PORT", help="Where to register.")
@click.option("--cpus", help="Cores to stay on, such as 0,1.")
@click.option("--zone", help="Where it stands; coordinators prefer their own zone.")
@click.option("--role", help="prefill, decode or both.")
@click.option("--stop-on-eof", is_flag=True, hidden=True, help="Stop when standard input ends: my parent has died.")
@click.option(
    "--preproc-processes", type=int, help="Processes of each model for the steps before and after it; 0: none."
)
@common_options
def worker(
    host: str | None,
    port: int | None,
    models: tuple[str, ...],
    replicas: tuple[str, ...],
    coordinators: tuple[str, ...],
    cpus: str | None,
    zone: str | None,
    role: str | None,
    stop_on_eof: bool,
    preproc_processes: int | None,
    file: Path | None,
    log_level: str | None,
    log_format: str | None,
) -> None:
    """Load models and run them for coordinators that call, or with which it registers."""
    found = settings(
        file,
        log_level,
        log_format,
        is_child=stop_on_eof,
        worker__host=host,
        worker__port=port,
        worker__models=models,
        preproc__processes=preproc_processes,
        worker__replicas=replicas,
        worker__coordinators=coordinators,
        worker__cpus=_cores(cpus),
        worker__zone=zone,
        worker__role=role,
    )
    run(lambda: node.WorkerNode(found.config, stop_on_eof=stop_on_eof), found.config, "worker")


def run(build: Callable[[], node.Node], config: Config, role: str) -> None:
    configure_logging(config.log.level, config.log.format)
    configure_tracing(config.telemetry, service=f"shoal-{role}")
    try:
        node.run(build)
    finally:
        close_tracing()


def _cores(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of core numbers such as 0,1", param_hint="--cpus") from None
