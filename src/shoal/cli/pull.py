"""``shoal pull``: have models on this machine before anybody asks for them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from shoal.cli.settings import common_options, settings
from shoal.config import Config, cache_folder
from shoal.model_registry import Engine
from shoal.model_store import CATALOG, TerminalProgress, find, located
from shoal.model_store import pull as pull_model


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@common_options
def pull(names: tuple[str, ...], file: Path | None, log_level: str | None, log_format: str | None) -> None:
    """Fetch the built-in models NAME..., check them, and convert them for their engines. Done once."""
    config = settings(file, log_level, log_format).config
    wanted = [name for name in names if name != Engine.ECHO]
    for name in wanted:
        find(name)
    pull_with_progress(config, wanted)
    for name in names:
        click.echo(f"{name}: {_found(name, cache_folder(config))}")


def _found(name: str, cache: Path) -> str:
    if name == Engine.ECHO:
        return "answers with what it is asked, and needs no files"
    return f"{find(name).description}, in {find(name).folder(cache)}"


def pull_with_progress(config: Config, names: Iterable[str]) -> None:
    """Pull those of ``names`` that are built-in models and not here yet, with a bar for whoever watches."""
    cache = cache_folder(config)
    missing = [name for name in names if name in CATALOG and located(name, cache) is None]
    if not missing:
        return
    with TerminalProgress() as progress:
        for name in missing:
            pull_model(name, cache, progress)
