"""A run as one page that needs nothing else: figures, and plots drawn as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import jinja2
import numpy as np

from shoal.bench.record import Run
from shoal.bench.summary import rate_over_time, summarise

_WIDTH: Final = 640  # of a plot, in pixels
_HEIGHT: Final = 200
_MARGIN: Final = 40

Points = Sequence[tuple[float, float]]

_PAGE: Final = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(
    """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ run.scenario }}: {{ run.load }}</title>
<style>
  :root { color-scheme: light dark; }
  body { font: 15px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
  table { border-collapse: collapse; margin: 1rem 0; }
  th, td { text-align: right; padding: .2rem .8rem; border-bottom: 1px solid #8884; }
  th:first-child, td:first-child { text-align: left; }
  svg { width: 100%; height: auto; } path { fill: none; stroke: #0a84ff; stroke-width: 2; }
  text { font-size: 11px; fill: currentColor; } line { stroke: #8888; }
</style>
<h1>{{ run.scenario }}</h1>
<p>{{ run.load }} at {{ run.url }}, {{ run.started }}, {{ run.machine.cpus }} cores, load before
{{ run.machine.load_before }}.</p>
<table>
  <tr><th>requests</th><td>{{ summary.requests }}</td></tr>
  {% for outcome, count in summary.outcomes.items() %}
  <tr><th>{{ outcome }}</th><td>{{ count }}</td></tr>
  {% endfor %}
  <tr><th>answered well, a second</th><td>{{ "%.1f"|format(summary.requests_per_second) }}</td></tr>
  <tr><th>tokens a second</th><td>{{ "%.1f"|format(summary.tokens_per_second) }}</td></tr>
</table>
<table>
  <tr><th>ms</th><th>mean</th><th>p50</th><th>p90</th><th>p95</th><th>p99</th><th>max</th></tr>
  {% for name, q in quantiles %}
  <tr><td>{{ name }}</td>
  {% for value in (q.mean, q.p50, q.p90, q.p95, q.p99, q.max) %}<td>{{ "%.2f"|format(value * 1000) }}</td>{% endfor %}
  </tr>
  {% endfor %}
</table>
{% for title, plot in plots %}
<h2>{{ title }}</h2>{{ plot|safe }}
{% endfor %}
</html>
"""
)


def render(run: Run) -> str:
    """The page. Whatever a server answered is escaped."""
    summary = summarise(run)
    named = [("latency", summary.latency), ("first token", summary.first_token), ("token gap", summary.token_gap)]
    good = [record for record in run.records if record.ok]
    plots = [
        ("Good answers a second", plot(rate_over_time(run.records, run.duration), "s", "1/s")),
        ("Latency: the share of requests below", plot(_distribution([r.latency * 1e3 for r in good]), "ms", "share")),
    ]
    if summary.first_token is not None:
        firsts = [(r.first - r.due) * 1e3 for r in good if r.first is not None]
        plots.append(("First token: the share of requests below", plot(_distribution(firsts), "ms", "share")))
    quantiles = [(name, values) for name, values in named if values is not None]
    return _PAGE.render(run=run, summary=summary, quantiles=quantiles, plots=plots)


def plot(points: Points, x: str, y: str) -> str:
    """A line through the points, with the greatest value of both axes."""
    if not points:
        return ""
    right = max(point[0] for point in points) or 1.0
    top = max(point[1] for point in points) or 1.0
    scaled = [
        (_MARGIN + px / right * (_WIDTH - 2 * _MARGIN), _HEIGHT - _MARGIN - py / top * (_HEIGHT - 2 * _MARGIN))
        for px, py in points
    ]
    path = "M" + " L".join(f"{px:.1f},{py:.1f}" for px, py in scaled)
    floor, edge = _HEIGHT - _MARGIN, _WIDTH - _MARGIN
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">'
        f'<line x1="{_MARGIN}" y1="{floor}" x2="{edge}" y2="{floor}"/>'
        f'<line x1="{_MARGIN}" y1="{_MARGIN}" x2="{_MARGIN}" y2="{floor}"/>'
        f'<path d="{path}"/>'
        f'<text x="{edge}" y="{floor + 16}" text-anchor="end">{right:.4g} {x}</text>'
        f'<text x="{_MARGIN}" y="{_MARGIN - 6}">{top:.4g} {y}</text></svg>'
    )


def _distribution(values: Sequence[float], points: int = 200) -> Points:
    if not values:
        return []
    shares = np.linspace(0, 1, min(points, len(values) + 1))
    return [(float(value), float(share)) for value, share in zip(np.quantile(values, shares), shares, strict=True)]
