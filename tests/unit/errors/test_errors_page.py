"""The page about errors names every one of them, as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shoal.errors import CODES

PAGE = (Path(__file__).parents[3] / "docs" / "errors.md").read_text()
ROW = re.compile(r"^\| `(\w+)` \| (\d+) \| (\w+) \| (\w+) \| (.+) \| (.+) \|$", re.MULTILINE)
ROWS = {row[1]: row.groups()[1:] for row in ROW.finditer(PAGE)}


def test_the_page_names_every_error_once_and_no_other() -> None:
    assert ROWS.keys() == CODES.keys()
    assert PAGE.count("\n| `") == len(CODES)


@pytest.mark.parametrize("code", CODES)
def test_an_error_is_described_as_it_is(code: str) -> None:
    status, fault, again, meaning, advice = ROWS[code]
    kind = CODES[code]
    assert int(status) == kind.status
    assert fault == kind.fault
    assert again == ("yes" if kind.retryable else "no")
    assert meaning
    assert advice
