"""``shoal config``, and how command-line flags become settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

from shoal.config import Settings, is_table, leaves, load, value_at, variable

F = TypeVar("F", bound=Callable[..., Any])


def common_options(command: F) -> F:
    """What every command that starts a process takes."""
    for option in (
        click.option("--config", "file", type=click.Path(path_type=Path), envvar="SHOAL_CONFIG", help="YAML file."),
        click.option("--log-level", help="debug, info, warning or error."),
        click.option("--log-format", help="console or json."),
    ):
        command = option(command)
    return command


def settings(file: Path | None, log_level: str | None, log_format: str | None, **flags: Any) -> Settings:
    """``flags``: a configuration path with ``__`` for the dot, and its value; None or empty if it was not given."""
    given = {path.replace("__", "."): value for path, value in flags.items() if value not in (None, ())}
    return load(flags={**given, "log.level": log_level, "log.format": log_format}, file=file)


@click.command()
@common_options
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def config(file: Path | None, log_level: str | None, log_format: str | None, as_json: bool) -> None:
    """Print every setting, its value and where it came from.

    A flag wins over an environment variable, that over the file, that over the default.
    """
    found = settings(file, log_level, log_format)
    rows = [(path, field, value_at(found.config, path), found.origins[path]) for path, field in leaves()]
    if as_json:
        tree = {path: {"value": _plain(value), "origin": origin} for path, _, value, origin in rows}
        click.echo(json.dumps(tree, indent=2))
        return
    table = Table("setting", "value", "from", "environment variable", box=None)
    for path, field, value, origin in rows:
        table.add_row(path, json.dumps(_plain(value)), origin, "" if is_table(field) else variable(path))
    Console(width=None if Console().is_terminal else 140).print(table)


def _plain(value: Any) -> Any:
    import msgspec

    return msgspec.to_builtins(value)
