"""Compressed bodies, honest and not."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.api.compression import MAX_RATIO, accepted, compress, inflate
from shoal.errors import InvalidRequest, PayloadTooLarge

TEXT = b"many small fish " * 200
MAKERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.mark.parametrize("encoding", MAKERS)
def test_what_was_compressed_is_inflated(encoding: str) -> None:
    assert inflate(MAKERS[encoding](TEXT), encoding, limit=len(TEXT)) == TEXT
    assert inflate(compress([TEXT[:5], memoryview(TEXT)[5:]], encoding), encoding, limit=len(TEXT)) == TEXT


@pytest.mark.parametrize("encoding", MAKERS)
def test_a_body_that_grows_beyond_the_limit_is_too_large(encoding: str) -> None:
    with pytest.raises(PayloadTooLarge, match=f"larger than {len(TEXT) - 1} bytes"):
        inflate(MAKERS[encoding](TEXT), encoding, limit=len(TEXT) - 1)


def test_the_ratio_is_what_the_worst_bomb_reaches() -> None:
    size = 2**24
    bomb = zlib.compress(bytes(size), 9)
    assert 0.9 * MAX_RATIO < size / len(bomb) <= MAX_RATIO


@pytest.mark.parametrize(
    ("body", "encoding", "message"),
    [
        (b"plain", "gzip", "the body is not gzip"),
        (gzip.compress(TEXT, mtime=0), "deflate", "the body is not deflate"),
        (gzip.compress(TEXT, mtime=0)[:-1], "gzip", "ends too early"),
        (b"", "gzip", "ends too early"),
        (gzip.compress(TEXT, mtime=0) + b"x", "gzip", "bytes follow the end"),
        (TEXT, "br", "content-encoding 'br' is not known; there are gzip and deflate"),
    ],
)
def test_what_is_not_a_compressed_body_is_refused(body: bytes, encoding: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as error:
        inflate(body, encoding, limit=2**20)
    assert error.value.param == "content-encoding"


@given(body=st.binary(max_size=64), encoding=st.sampled_from(list(MAKERS)) | st.text(max_size=8))
def test_odd_bodies_are_inflated_or_refused(body: bytes, encoding: str) -> None:
    with contextlib.suppress(InvalidRequest):
        assert len(inflate(body, encoding, limit=100)) <= 100


@pytest.mark.parametrize(
    ("header", "encoding"),
    [
        ("", None),
        ("identity", None),
        ("br, zstd", None),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("br, deflate, gzip", "deflate"),
        ("GZIP;q=0.5", "gzip"),
        ("gzip;q=0, deflate", "deflate"),
        ("gzip; q=0.000", None),
        ("gzip;q", None),
        ("*", None),
    ],
)
def test_an_answer_is_compressed_as_the_client_accepts(header: str, encoding: str | None) -> None:
    assert accepted(header) == encoding
