"""The guards around the binding to llama.cpp. Nothing here loads a model."""

from __future__ import annotations

import ctypes
import logging

import pytest

from shoal.engines import llama_abi
from shoal.engines.llama_abi import (
    CONTEXT_PARAMS,
    MODEL_PARAMS,
    AbortFlag,
    Batch,
    ContextParams,
    ModelParams,
    complaints,
    llama,
    require_defaults,
    require_version,
)
from shoal.errors import ModelLoadFailed

ERROR, DEBUG = 4, 1  # llama.cpp's levels


def test_the_pinned_release_is_taken() -> None:
    require_version(llama_abi.VERSION)


@pytest.mark.parametrize("found", [None, "2026.10.11550", "0.1"])
def test_any_other_release_is_refused_with_the_one_that_is_needed(found: str | None) -> None:
    with pytest.raises(ModelLoadFailed, match=rf"xllamacpp=={llama_abi.VERSION}.*installed is {found or 'none'}"):
        require_version(found)


@pytest.mark.parametrize(("kind", "size"), [(ModelParams, 80), (ContextParams, 168), (Batch, 56)])
def test_structures_have_the_size_of_the_pinned_release(kind: type[ctypes.Structure], size: int) -> None:
    assert ctypes.sizeof(kind) == size


@pytest.mark.parametrize(
    ("function", "fields"),
    [("llama_model_default_params", MODEL_PARAMS), ("llama_context_default_params", CONTEXT_PARAMS)],
)
def test_a_default_that_moved_is_refused_by_name(function: str, fields: tuple[llama_abi.Field, ...]) -> None:
    for name, kind, default in fields:
        params = getattr(llama, function)()
        require_defaults(params, fields)
        setattr(params, name, 3 if default is None or kind is not ctypes.c_bool else not default)
        with pytest.raises(ModelLoadFailed, match=rf"\.{name} defaults to .*xllamacpp==") as caught:
            require_defaults(params, fields)
        assert "install the wheel" in caught.value.message


def test_the_abort_flag_answers_native_callers_as_a_boolean() -> None:
    flag = AbortFlag(llama)
    ask = ctypes.cast(flag.callback, ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p))

    assert not ask(flag.data)
    flag.set()
    assert ask(flag.data)
    flag.clear()
    assert not ask(flag.data)


def test_errors_of_llama_cpp_are_warnings_and_remembered(caplog: pytest.LogCaptureFixture) -> None:
    complaints()
    with caplog.at_level(logging.DEBUG, logger=llama_abi.__name__):
        llama_abi._log(ERROR, b"failed to open file\n", None)
        llama_abi._log(DEBUG, b"\xffdetail\n", None)
        llama_abi._log(DEBUG, b"\n", None)

    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "llama.cpp: failed to open file"),
        (logging.DEBUG, "llama.cpp: �detail"),
    ]
    assert complaints() == "failed to open file"
    assert complaints() == "no reason given"


def test_remembered_errors_are_bounded() -> None:
    for number in range(1000):
        llama_abi._log(ERROR, b"%d" % number, None)

    assert complaints() == "996; 997; 998; 999"
