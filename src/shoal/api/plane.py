"""The one door of every surface: what the coordinator's data plane offers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from shoal.coordinator.admission import Place
from shoal.coordinator.dataplane import ServedModel
from shoal.messages import Chunk, Generate, Infer, Inferred
from shoal.model_registry import ModelSpec

__all__ = ["ModelSpec", "Plane", "ServedModel"]


class Plane(Protocol):
    """Checks, routes, retries and answers. Every method raises :class:`~shoal.errors.ShoalError`.

    ``timeout`` is in seconds for the whole request; None takes the server's default.
    """

    def models(self) -> Sequence[ServedModel]: ...

    def find(self, name: str, version: str | None = None, *, key: str = "") -> ModelSpec:
        """The model of a name or an alias; of several behind an alias ``key`` chooses, and the same one each time.

        Raises :class:`~shoal.errors.ModelNotFound`.
        """
        ...

    def ready(self) -> bool:
        """Is at least one worker ready?"""
        ...

    def together(self, requests: Sequence[Generate]) -> AbstractContextManager[Sequence[Place | None]]:
        """Let the generations of one request in, all or none: a place for each, to be given to :meth:`generate`."""
        ...

    def generate(
        self, request: Generate, *, timeout: float | None, place: Place | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """Closing the generator cancels the request downstream."""
        ...

    async def infer(self, request: Infer, *, timeout: float | None) -> Inferred: ...
