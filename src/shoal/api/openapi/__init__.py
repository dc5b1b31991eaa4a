"""The published description of every address: an OpenAPI document made from the routes and their types."""

from shoal.api.openapi.operation import (
    BINARY,
    EVENTS,
    FINDS,
    JSON,
    READS_BODY,
    RUNNING,
    RUNS,
    TEXT,
    Content,
    Errors,
    Header,
    Operation,
)

__all__ = [
    "BINARY",
    "EVENTS",
    "FINDS",
    "JSON",
    "READS_BODY",
    "RUNNING",
    "RUNS",
    "TEXT",
    "Content",
    "Errors",
    "Header",
    "Operation",
]
