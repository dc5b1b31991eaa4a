from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import InvalidRequest
from shoal.preproc import make_step
from shoal.types import StepSpec


def normalize(*rows: bytes, **options: Any) -> list[bytes]:
    step = make_step(StepSpec("normalize_text", options), None)
    made = step({"text": np.array([[row] for row in rows], object).reshape(-1, 1)})
    assert made["text"].shape == (len(rows), 1)
    return [row for (row,) in made["text"].tolist()]


@pytest.mark.parametrize(
    ("options", "before", "after"),
    [
        ({}, "  e\u0301tude\n", "\u00e9tude"),
        ({}, "Fisch", "Fisch"),
        ({"lower": True}, "FISCH \u00c4", "fisch \u00e4"),
        ({"lower": True}, "\u0130", "i\u0307"),
        ({"strip": False}, " a ", " a "),
        ({"form": "NFD"}, "\u00e9", "e\u0301"),
        ({"form": "NFKC"}, "\ufb01sh", "fish"),
        ({}, "   ", ""),
    ],
)
def test_a_text_has_one_form(options: dict[str, Any], before: str, after: str) -> None:
    assert normalize(before.encode(), **options) == [after.encode()]


@given(st.lists(st.text()), st.booleans())
def test_what_is_normal_stays_as_it_is(texts: list[str], lower: bool) -> None:
    once = normalize(*(text.encode() for text in texts), lower=lower)
    assert normalize(*once, lower=lower) == once
    assert all(unicodedata.is_normalized("NFC", row.decode()) for row in once)


def test_text_that_is_not_utf8_is_refused_with_its_row() -> None:
    with pytest.raises(InvalidRequest, match="row 1 of 'text' is not UTF-8") as refused:
        normalize(b"fish", b"\xff")
    assert refused.value.param == "text"
