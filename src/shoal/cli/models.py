"""``shoal models``: what a running Shoal serves, and how to change it meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import msgspec
from rich.table import Table

from shoal.cli.admin import admin_options, admin_options_behind, ask, show_table, tell
from shoal.errors import ConfigError


@click.group(invoke_without_command=True)
@admin_options
@click.pass_context
def models(context: click.Context, address: str, as_json: bool) -> None:
    """Show the models that are served; or load, unload, promote them and set their aliases."""
    context.obj = (address, as_json)
    if context.invoked_subcommand is None:
        tell(ask(address, "GET", "/admin/models"), as_json, _show)


@models.command()
@click.argument("name")
@click.argument("uri")
@click.option("--version", help="Beside the versions that are there; also as NAME@VERSION.")
@click.option("--replicas", type=click.IntRange(min=1), help="On so many workers; on all, unless told otherwise.")
@click.option("--worker", "workers", multiple=True, metavar="ID", help="On this worker; may be repeated.")
@click.option("--settings", type=click.Path(path_type=Path), help="YAML file with the model's settings.")
@admin_options_behind
@click.pass_obj
def load(
    to: tuple[str, bool],
    name: str,
    uri: str,
    version: str | None,
    replicas: int | None,
    workers: tuple[str, ...],
    settings: Path | None,
) -> None:
    """Have workers load URI as NAME, and serve it once all of them are ready."""
    body = {
        "name": name,
        "version": version,
        "settings": _settings(settings) | {"uri": uri},
        "replicas": replicas,
        "workers": workers,
    }
    made = ask(to[0], "POST", "/admin/models", body)
    _say(to, made, f"{made['name']}@{made['version']} is loaded on {len(made['replicas'])} workers")


@models.command()
@click.argument("name")
@admin_options_behind
@click.pass_obj
def unload(to: tuple[str, bool], name: str) -> None:
    """Take NAME@VERSION, or every version of NAME, away; what runs on it ends first."""
    gone = ask(to[0], "DELETE", f"/admin/models/{quote(name, safe='@')}")
    _say(to, gone, f"{', '.join(gone['unloaded'])}: unloaded")


@models.command()
@click.argument("name", metavar="NAME@VERSION")
@admin_options_behind
@click.pass_obj
def promote(to: tuple[str, bool], name: str) -> None:
    """Let a version answer to the bare name from now on."""
    made = ask(to[0], "POST", f"/admin/models/{quote(name, safe='@')}/promote")
    _say(to, made, f"{made['name']}@{made['version']} is live")


@models.command()
@click.argument("alias")
@click.argument("targets", nargs=-1, metavar="NAME[@VERSION][=WEIGHT]...")
@click.option("--delete", is_flag=True, help="Take the alias away.")
@admin_options_behind
@click.pass_obj
def alias(to: tuple[str, bool], alias: str, targets: tuple[str, ...], delete: bool) -> None:
    """Let ALIAS lead to models, each as often as its weight says: `shoal models alias chat m@1=9 m@2=1`."""
    if delete == bool(targets):
        raise click.UsageError("give models for the alias, or --delete")
    path = f"/admin/aliases/{quote(alias, safe='')}"
    if delete:
        _say(to, ask(to[0], "DELETE", path), f"{alias}: deleted")
    else:
        weights = dict(map(_weight, targets))
        made = ask(to[0], "PUT", path, {"targets": weights})
        _say(to, made, f"{alias} leads to {_weights(made['targets'])}")


def _say(to: tuple[str, bool], answer: Any, line: str) -> None:
    tell(answer, to[1], lambda _: click.echo(line))


def _settings(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        found = msgspec.yaml.decode(file.read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{file}: expected the settings of a model")
    return found


def _weight(text: str) -> tuple[str, int]:
    name, equals, weight = text.partition("=")
    if equals and not weight.isdecimal():
        raise click.BadParameter(f"{text!r}: a weight is a whole number of at least 1", param_hint="NAME=WEIGHT")
    return name, int(weight) if equals else 1


def _weights(targets: dict[str, int]) -> str:
    if len(targets) == 1:
        return next(iter(targets))
    return ", ".join(f"{name} ({weight})" for name, weight in targets.items())


def _show(found: Any) -> None:
    table = Table("model", "version", "kind", "state", "workers", "requests", "also called", "from", box=None)
    for model in found["models"]:
        ready = sum(replica["state"] == "ready" for replica in model["replicas"])
        table.add_row(
            model["name"],
            model["version"] + (" (live)" if model["live"] else ""),
            model["kind"],
            _state(model),
            f"{ready} of {len(model['replicas'])}",
            str(model["requests"]),
            ", ".join(model["aliases"]),
            model["uri"],
        )
    show_table(table)
    for alias, targets in found["aliases"].items():
        if len(targets) > 1:
            click.echo(f"{alias} leads to {_weights(targets)}")


def _state(model: Any) -> str:
    """With why, where it is not ready everywhere."""
    reasons = [replica["reason"] for replica in model["replicas"] + model["refusals"] if replica["reason"]]
    state = "ready" if model["ready"] else "not ready"
    return f"{state}: {reasons[0]}" if reasons else state
