"""``shoal bench``: put a load on a server and see how it does; any server that speaks OpenAI's protocol."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from shoal.bench import SCENARIOS, Closed, Load, Open, Run, Summary, compare, parse_trace, render, run, summarise
from shoal.bench.run import Plan
from shoal.bench.scenario import Sizes
from shoal.client import DEFAULT_ADDRESS
from shoal.errors import ConfigError

_SECONDS = click.FloatRange(min=0, min_open=True)
_COUNT = click.IntRange(min=1)
_BUSY = 0.8  # of a core; above it the load generator makes answers wait


@click.group(invoke_without_command=True)
@click.option(
    "--url", default=f"http://{DEFAULT_ADDRESS}", show_default=True, envvar="SHOAL_URL", help="Of the server."
)
@click.option("--scenario", type=click.Choice(list(SCENARIOS)), default="chat", show_default=True)
@click.option("--model", default="default", show_default=True)
@click.option("--clients", type=_COUNT, help="Closed load: so many clients, one request at a time each (8).")
@click.option("--rate", type=_SECONDS, help="Open load: so many requests a second, whatever becomes of them.")
@click.option("--trace", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Replay: JSON lines.")
@click.option("--duration", type=_SECONDS, default=10.0, show_default=True, help="Seconds.")
@click.option("--warm-up", type=click.FloatRange(min=0), default=2.0, show_default=True, help="Seconds.")
@click.option("--prompt-tokens", type=_COUNT, default=100, show_default=True, help="About so many.")
@click.option("--shared-prefix", type=click.IntRange(min=0), default=0, show_default=True, help="Of them the same.")
@click.option("--max-tokens", type=_COUNT, default=64, show_default=True)
@click.option("--rows", type=_COUNT, default=1, show_default=True, help="Of a tensor or embeddings request.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Keep every request.")
@click.option("--html", "html_file", type=click.Path(dir_okay=False, path_type=Path), help="A page with plots.")
@click.pass_context
def bench(
    context: click.Context,
    url: str,
    scenario: str,
    model: str,
    clients: int | None,
    rate: float | None,
    trace: Path | None,
    duration: float,
    warm_up: float,
    prompt_tokens: int,
    shared_prefix: int,
    max_tokens: int,
    rows: int,
    seed: int,
    json_file: Path | None,
    html_file: Path | None,
) -> None:
    """Measure a running server. Exit code 1 if any request was not answered well."""
    if context.invoked_subcommand is not None:
        return
    plan = Plan(
        url=url,
        scenario_name=scenario,
        scenario=SCENARIOS[scenario],
        model=model,
        sizes=Sizes(prompt_tokens, max_tokens, rows, shared_prefix),
        load=_load(clients, rate, trace, duration),
        warm_up=warm_up,
        seed=seed,
    )
    done = uvloop.run(_with_progress(plan))
    summary = summarise(done)
    if json_file is not None:
        json_file.write_bytes(msgspec.json.encode(done))
    if html_file is not None:
        html_file.write_text(render(done))
    _print(done, summary)
    if summary.ok < summary.requests or not summary.requests:
        context.exit(1)


@bench.command(name="compare")
@click.argument("first", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("second", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def compare_runs(first: Path, second: Path) -> None:
    """Two runs that were kept with --json, as ratios of the second to the first."""
    table = Table("", first.stem, second.stem, "ratio", box=None)
    for row in compare(summarise(_read(first)), summarise(_read(second))):
        table.add_row(row.what, f"{row.first:.2f}", f"{row.second:.2f}", f"{row.ratio:.3f}")
    Console().print(table)


def _load(clients: int | None, rate: float | None, trace: Path | None, duration: float) -> Load:
    if sum(value is not None for value in (clients, rate, trace)) > 1:
        raise click.UsageError("--clients, --rate and --trace exclude each other")
    if trace is not None:
        return parse_trace(trace.read_bytes().splitlines())
    return Open(rate, duration) if rate is not None else Closed(clients or 8, duration)


async def _with_progress(plan: Plan) -> Run:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(str(plan.load), total=1.0)
        return await run(plan, lambda share: progress.update(task, completed=share))


def _read(path: Path) -> Run:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Run)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is no run that was kept with --json: {error}") from error


def _print(done: Run, summary: Summary) -> None:
    console = Console()
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in summary.outcomes.items()) or "none"
    console.print(f"{done.scenario}, {done.load}: {summary.requests} requests ({outcomes})")
    if said := next((record.message for record in done.records if record.message), ""):
        console.print(f"the first that failed: {said}", markup=False)
    speed = f"{summary.requests_per_second:.1f} requests/s"
    console.print(f"{speed}, {summary.tokens_per_second:.1f} tokens/s" if summary.tokens_per_second else speed)
    table = Table("ms", "mean", "p50", "p90", "p95", "p99", "max", box=None)
    named = (("latency", summary.latency), ("first token", summary.first_token), ("token gap", summary.token_gap))
    for name, q in named:
        if q is not None:
            table.add_row(name, *(f"{value * 1e3:.2f}" for value in (q.mean, q.p50, q.p90, q.p95, q.p99, q.max)))
    if table.row_count:
        console.print(table)
    if done.generator_busy > _BUSY:
        console.print(
            f"The load generator was busy for {done.generator_busy:.0%} of the time: it may have been the limit."
        )
