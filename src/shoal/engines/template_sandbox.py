"""Where a model's chat template runs: a program of a stranger's that may compute a prompt, and nothing much besides.

Jinja's sandbox keeps it from everything but its own values; what is added here is an end. Loops, macros and growing
strings are paid for out of a budget, so that a template that would run for hours is refused after some two seconds.
It is no wall against whoever writes one to do harm: a single native call on values made for it can still take long.
That risk is taken with the model file, and it ends with its engine process, which the worker stops once it has been
silent for a minute.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_RENDERED = 4_000_000  # characters of a prompt, and of any string on the way; far beyond any context
MAX_WORK = 10_000_000  # parts of a template evaluated in loops and macros: 10,000 messages at 1,000 each
MAX_SOURCE = 500_000  # characters of a template
MAX_BITS = 10_000  # of a number that is computed

_SPEND = "spend work"  # a filter's name that no template can write

_left: ContextVar[list[int] | None] = ContextVar("_left", default=None)  # of the budget of what is being rendered


class TooMuch(Exception):
    """The template wants more than a prompt can need."""


@contextmanager
def budget() -> Iterator[None]:
    """Render within it: :class:`TooMuch` is raised, out of the rendering, once it is spent."""
    token = _left.set([MAX_WORK])
    try:
        yield
    finally:
        _left.reset(token)


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "*", "**"))

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols], finalize=_short)
        self.filters[_SPEND] = _spend
        self.binop_table |= {"+": _add, "*": _multiply, "**": _power}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > MAX_SOURCE:
            raise TooMuch(f"it is longer than {MAX_SOURCE} characters")
        tree = super()._parse(source, name, filename)
        for loop in list(tree.find_all(nodes.For)):
            loop.body.insert(0, nodes.ExprStmt(_paid(loop), lineno=loop.lineno))
            if loop.test is not None:
                loop.test = nodes.And(_paid(loop.test), loop.test, lineno=loop.lineno)
        macros: list[nodes.Macro | nodes.CallBlock] = [*tree.find_all(nodes.Macro), *tree.find_all(nodes.CallBlock)]
        for macro in macros:
            macro.body.insert(0, nodes.ExprStmt(_paid(macro), lineno=macro.lineno))
        for joined in list(tree.find_all(nodes.Concat)):
            joined.nodes = [nodes.Filter(part, _SPEND, [], [], None, None, lineno=part.lineno) for part in joined.nodes]
        tree.set_environment(self)
        return tree


def _paid(part: nodes.Node) -> nodes.Expr:
    """Costs as much as there is in ``part`` whenever it is evaluated, and is true."""
    size = sum(1 + len(inner.data) // 64 if isinstance(inner, nodes.TemplateData) else 1 for inner in _all(part))
    return nodes.Filter(nodes.Const(size), _SPEND, [], [], None, None, lineno=part.lineno)


def _all(part: nodes.Node) -> Iterator[nodes.Node]:
    yield part
    yield from part.find_all(nodes.Node)


@jinja2.pass_context  # which keeps it from being computed when the template is compiled
def _spend(context: object, value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        _take(value)
        return value
    return _short(value)


def _take(work: int) -> None:
    left = _left.get()
    if left is None:
        return
    left[0] -= work
    if left[0] < 0:
        raise TooMuch("it does more than any prompt needs")


def _short(value: Any) -> Any:
    if isinstance(value, str):
        _check_length(len(value))
        _take(len(value) // 64)
    return value


def _check_length(length: int) -> None:
    if length > MAX_RENDERED:
        raise TooMuch(f"it makes more than {MAX_RENDERED} characters or items")


def _add(left: Any, right: Any) -> Any:
    if isinstance(left, Sized) and isinstance(right, Sized):
        _check_length(len(left) + len(right))
        _take((len(left) + len(right)) // 64)
    return operator.add(left, right)


def _multiply(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() + right.bit_length())
    for items, times in ((left, right), (right, left)):
        if isinstance(items, Sized) and isinstance(times, int):
            _check_length(len(items) * times)
    return operator.mul(left, right)


def _power(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() * right)
    return operator.pow(left, right)


def _check_bits(bits: int) -> None:
    if bits > MAX_BITS:
        raise TooMuch(f"it computes a number of more than {MAX_BITS} bits")
