"""Load on a running server, and what came of it: figures, a page with plots, two runs side by side."""

from shoal.bench.compare import compare
from shoal.bench.load import Closed, Load, Open, Replay, parse_trace
from shoal.bench.record import Record, Run
from shoal.bench.report import render
from shoal.bench.run import run
from shoal.bench.scenario import SCENARIOS, Scenario
from shoal.bench.summary import Summary, summarise

__all__ = [
    "SCENARIOS",
    "Closed",
    "Load",
    "Open",
    "Record",
    "Replay",
    "Run",
    "Scenario",
    "Summary",
    "compare",
    "parse_trace",
    "render",
    "run",
    "summarise",
]
