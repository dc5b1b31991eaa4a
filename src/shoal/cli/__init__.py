"""The ``shoal`` command. Only this package reads arguments, prints and sets exit codes.

Exit codes: 0 done, 1 it failed, 2 the command line or the configuration is wrong, 130 interrupted.
"""

from __future__ import annotations

import sys

import click

from shoal.cli.bench import bench
from shoal.cli.chat import chat
from shoal.cli.doctor import doctor
from shoal.cli.infer import infer
from shoal.cli.models import models
from shoal.cli.processes import coordinator, serve, worker
from shoal.cli.pull import pull
from shoal.cli.settings import config
from shoal.cli.workers import workers
from shoal.errors import ConfigError, ShoalError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="shoal")
def shoal() -> None:
    """Lightweight, distributed AI inference: one package from a laptop to a fleet."""


for command in (serve, coordinator, worker, chat, infer, models, workers, bench, pull, config, doctor):
    shoal.add_command(command)


def main() -> None:
    try:
        sys.exit(shoal(prog_name="shoal", standalone_mode=False))
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except ShoalError as error:
        click.echo(f"shoal: {error.message}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
