"""What a step before or after inference offers."""

from __future__ import annotations

from typing import Protocol

import msgspec

from shoal.types import Tensors, TensorSpec


class Step(Protocol):
    """A pure function of named arrays, with a description of both ends.

    The built-in ones are made from ``(options, folder)``: a struct of the class in their attribute ``Options``, and
    the folder of the model's files, if it has one.
    """

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What it takes: it is called with these arrays and no others. Empty: it takes whatever there is."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What it makes; empty where it does not say."""

    def __call__(self, tensors: Tensors) -> Tensors:
        """Raises :class:`~shoal.errors.InvalidRequest` for content it cannot take."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What can be set of a step."""
