"""Requests that are answered later: order one, come back for its answer, or watch it being made."""

from __future__ import annotations

from functools import partial

from shoal.api.jobs import surface
from shoal.api.jobs.inner import Surfaces
from shoal.api.routing import Route
from shoal.coordinator.jobs import Jobs


def routes(jobs: Jobs, surfaces: Surfaces) -> list[Route]:
    """``surfaces``: those whose requests can be jobs."""
    return [
        Route("POST", "/v1/jobs", partial(surface.create, jobs, surfaces)),
        Route("GET", surface.FOLDER, partial(surface.read, jobs)),
        Route("DELETE", surface.FOLDER, partial(surface.remove, jobs)),
    ]
