"""What ``shoal models`` and ``shoal workers`` ask a coordinator's ``/admin``."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec
from rich.console import Console
from rich.table import Table

from shoal.cli.settings import address_option
from shoal.errors import ErrorInfo, ProtocolError, WorkerLost, from_info

TIMEOUT = 1000.0  # seconds: loading a model may fetch and convert its weights

F = TypeVar("F", bound=Callable[..., Any])


def admin_options(command: F) -> F:
    """What every command that shows or changes a running Shoal takes."""
    command = click.option("--json", "as_json", is_flag=True, help="For programs.")(command)
    return address_option(command)


def admin_options_behind(command: F) -> F:
    """The same behind the name of a subcommand, where they win over those before it."""
    for option in (
        click.option("--json", "as_json", is_flag=True, expose_value=False, callback=_as_json, help="For programs."),
        click.option("--address", metavar="HOST:PORT", expose_value=False, callback=_to, help="A coordinator."),
    ):
        command = option(command)
    return command


def _to(context: click.Context, option: click.Parameter, address: str | None) -> None:
    if address is not None:
        context.obj = (address, context.obj[1])


def _as_json(context: click.Context, option: click.Parameter, as_json: bool) -> None:
    context.obj = (context.obj[0], as_json or context.obj[1])


def ask(address: str, method: str, path: str, body: Any = None) -> Any:
    """The answer's JSON. Raises :class:`~shoal.errors.ShoalError` with what the coordinator said."""
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT)
    try:
        data = None if body is None else msgspec.json.encode(body)
        connection.request(method, path, data, {"content-type": "application/json"})
        answer = connection.getresponse()
        status, raw = answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise WorkerLost(f"no coordinator answers at {address}: {error}") from error
    finally:
        connection.close()
    try:
        content = msgspec.json.decode(raw)
        if status >= 400:
            info = content["error"]
            raise from_info(ErrorInfo(info["code"], info["message"], info.get("param")))
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise ProtocolError(f"{address} does not answer as a coordinator does (status {status})") from error
    return content


def tell(answer: Any, as_json: bool, show: Callable[[Any], None]) -> None:
    """For programs or for people, as they asked."""
    if as_json:
        show_json(answer)
    else:
        show(answer)


def show_json(value: Any) -> None:
    """What is not finite becomes null, as over HTTP: JSON has no such number."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def show_table(table: Table) -> None:
    """A terminal's width decides; for a pipe lines stay whole."""
    Console(width=None if Console().is_terminal else 200).print(table)
