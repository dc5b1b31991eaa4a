"""``shoal workers``: who computes, and how to let one leave."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click
from rich.table import Table

from shoal.cli.admin import admin_options, admin_options_behind, ask, show_table, tell


@click.group(invoke_without_command=True)
@admin_options
@click.pass_context
def workers(context: click.Context, address: str, as_json: bool) -> None:
    """Show the workers of a running Shoal; or let one leave."""
    context.obj = (address, as_json)
    if context.invoked_subcommand is None:
        tell(ask(address, "GET", "/admin/workers"), as_json, _show)


@workers.command()
@click.argument("worker", metavar="ID")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds for what runs there.")
@admin_options_behind
@click.pass_obj
def drain(to: tuple[str, bool], worker: str, timeout: float | None) -> None:
    """Give a worker nothing new, let it finish what it has, and leave."""
    address, as_json = to
    answer = ask(address, "POST", f"/admin/workers/{quote(worker, safe=':')}/drain", {"timeout": timeout})
    tell(answer, as_json, lambda _: click.echo(f"{answer['worker']} is draining"))


def _show(found: Any) -> None:
    table = Table("worker", "state", "requests", "cores", "memory", "models", box=None)
    for worker in found["workers"]:
        held = [f"{model['model']}{_shard(model)}{_but(model)}" for model in worker["models"]]
        table.add_row(
            worker["id"],
            worker["state"] + (", silent" if worker["suspect"] else ""),
            f"{worker['in_flight']} of {worker['capacity']}",
            str(worker["cpus"]),
            f"{worker['memory_bytes'] / 2**30:.0f} GiB",
            ", ".join(held),
        )
    show_table(table)


def _shard(model: Any) -> str:
    return "" if model["shard"] is None else f"#{model['shard']}"


def _but(model: Any) -> str:
    if model["state"] == "ready":
        return ""
    return f" ({model['state']}: {model['reason']})" if model["reason"] else f" ({model['state']})"
