"""``shoal config``, and how command-line flags become settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from shoal.client import DEFAULT_ADDRESS
from shoal.config import (
    FILE_VARIABLE,
    Settings,
    cache_folder,
    description,
    is_table,
    leaves,
    load,
    unknown_variables,
    value_at,
    variable,
)

F = TypeVar("F", bound=Callable[..., Any])


def address_option(command: F) -> F:
    """Where a command finds the Shoal that it asks."""
    return click.option(
        "--address",
        default=DEFAULT_ADDRESS,
        show_default=True,
        envvar="SHOAL_ADDRESS",
        show_envvar=True,
        metavar="HOST:PORT",
        help="A coordinator.",
    )(command)


def common_options(command: F) -> F:
    """What every command that starts a process takes."""
    for option in (
        click.option("--config", "file", type=click.Path(path_type=Path), envvar=FILE_VARIABLE, help="YAML file."),
        click.option("--log-level", help="debug, info, warning or error."),
        click.option("--log-format", help="console or json."),
    ):
        command = option(command)
    return command


def settings(
    file: Path | None, log_level: str | None, log_format: str | None, *, is_child: bool = False, **flags: Any
) -> Settings:
    """``flags``: a configuration path with ``__`` for the dot, and its value; None or empty if it was not given.

    ``is_child``: the parent has warned of misspelt variables already.
    """
    for name, nearest in () if is_child else unknown_variables():
        hint = f"; did you mean {nearest}?" if nearest else ""
        click.echo(f"shoal: warning: {name} is no setting{hint}", err=True)
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
    values = {path: value_at(found.config, path) for path, _ in leaves()}
    values["cache_dir"] = str(cache_folder(found.config))
    rows = [(path, field, values[path], found.origins[path]) for path, field in leaves()]
    if as_json:
        tree = {
            path: {"value": _plain(value), "origin": origin, "description": description(field)}
            for path, field, value, origin in rows
        }
        click.echo(json.dumps(tree, indent=2))
        return
    table = Table("setting", "value", "from", "environment variable", "what it is", box=None)
    for path, field, value, origin in rows:
        name = "" if is_table(field) else variable(path)
        table.add_row(path, escape(json.dumps(_plain(value))), origin, name, escape(description(field)))
    Console(width=None if Console().is_terminal else 220).print(table)


def _plain(value: Any) -> Any:
    import msgspec

    return msgspec.to_builtins(value)
