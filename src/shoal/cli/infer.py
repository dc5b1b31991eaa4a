"""``shoal infer``: run a tensor model once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
from rich.table import Table

from shoal.cli.admin import admin_options, show_json, show_table
from shoal.client import Client
from shoal.errors import InvalidRequest
from shoal.messages import ModelInfo
from shoal.model_registry import datatype
from shoal.types import DTYPES, Array, Tensors, TensorSpec

SHOWN = 6  # values of an output, at each end


@click.command()
@click.argument("model")
@click.argument("inputs", nargs=-1, metavar="NAME=VALUE...")
@click.option("--key", default="", help="Chooses the shard of a model in shards where no input does.")
@admin_options
def infer(model: str, inputs: tuple[str, ...], key: str, address: str, as_json: bool) -> None:
    """Run MODEL on inputs and print its outputs.

    VALUE is JSON, such as '[[1, 2]]' or '["a herring"]'; or @FILE, an array in a .npy file, any other file as bytes.
    """
    with Client(address) as client:
        specs = _inputs(client.models(), model)
        given = {name: _array(value, specs.get(name)) for name, value in map(_split, inputs)}
        outputs = client.infer(model, given, key=key)
    if as_json:
        show_json({"model": model, "outputs": {name: _plain(array) for name, array in outputs.items()}})
    else:
        _show(outputs)


def _split(argument: str) -> tuple[str, str]:
    name, equals, value = argument.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"{argument[:80]!r} is not NAME=VALUE", param_hint="NAME=VALUE")
    return name, value


def _inputs(models: tuple[ModelInfo, ...], name: str) -> Mapping[str, TensorSpec]:
    """What the model says it takes; nothing where it does not say, or is not there: the answer tells that better."""
    for info in models:
        names = {str(info.id), *info.aliases, *([info.name] if info.live else [])}
        if name in names:
            return {spec.name: spec for spec in info.inputs}
    return {}


def _array(value: str, spec: TensorSpec | None) -> Array:
    made = _file(Path(value[1:])) if value.startswith("@") else _from_json(value, spec)
    return made if spec is None else _shaped(made, spec)


def _file(path: Path) -> Array:
    try:
        if path.suffix == ".npy":
            found: Array = np.load(path, allow_pickle=False)
            return found
        return _bytes(path.read_bytes())
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"{path}: {error}", param_hint="NAME=@FILE") from error


def _from_json(text: str, spec: TensorSpec | None) -> Array:
    """Of the type that the model wants; where it does not say, text is BYTES and numbers are INT64 or FP64."""
    try:
        value = json.loads(text)
    except ValueError as error:
        hint = f"{text[:80]!r} is not JSON ({error}); text needs quotes of its own: '\"{text[:20]}\"'"
        raise click.BadParameter(hint, param_hint="NAME=VALUE") from error
    try:
        made = np.array(value)
        if made.dtype.kind == "U" or (spec is not None and spec.dtype == "BYTES"):
            return _bytes(value)
        return made if spec is None or made.dtype.kind not in "biuf" else made.astype(DTYPES[spec.dtype])
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(f"{text[:80]!r} is no array: {error}", param_hint="NAME=VALUE") from error


def _bytes(value: Any) -> Array:
    shape = np.shape(value)
    flat = np.empty(int(np.prod(shape)), dtype=object)
    flat[:] = [_encoded(item) for item in np.array(value, dtype=object).reshape(-1)]
    return flat.reshape(shape)


def _encoded(item: Any) -> bytes:
    if isinstance(item, bytes):
        return item
    if not isinstance(item, str):
        raise InvalidRequest(f"expected text, not {item!r}"[:200])
    return item.encode()


def _shaped(array: Array, spec: TensorSpec) -> Array:
    """One axis short, it gets the one that goes without saying: a column of rows, or the only row."""
    if array.ndim == 0:
        return array.reshape((1,) * len(spec.shape))
    if array.ndim != len(spec.shape) - 1:
        return array
    return array[..., np.newaxis] if spec.shape[-1] == 1 else array[np.newaxis]


def _plain(array: Array) -> dict[str, Any]:
    data = _texts(array) if array.dtype == object else array
    return {"datatype": datatype(array), "shape": list(array.shape), "data": msgspec.to_builtins(data.tolist())}


def _texts(array: Array) -> Array:
    texts = np.empty(array.size, dtype=object)
    texts[:] = [bytes(item).decode(errors="backslashreplace") for item in array.reshape(-1)]
    return texts.reshape(array.shape)


def _show(outputs: Tensors) -> None:
    table = Table("output", "datatype", "shape", "values", box=None)
    for name, array in outputs.items():
        shown = _texts(array) if array.dtype == object else array
        values = np.array2string(shown, threshold=2 * SHOWN, edgeitems=SHOWN // 2, precision=6, max_line_width=100)
        table.add_row(name, datatype(array), str(list(array.shape)), values)
    show_table(table)
