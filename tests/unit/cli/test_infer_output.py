"""What ``shoal infer`` prints."""

from __future__ import annotations

import json

import numpy as np
import pytest

from shoal.cli.admin import show_json
from shoal.cli.infer import _plain


def test_what_is_printed_for_programs_is_json_whatever_a_model_gives(capsys: pytest.CaptureFixture[str]) -> None:
    show_json(_plain(np.array([1.5, np.nan, np.inf], np.float32)))
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "datatype": "FP32",
        "shape": [3],
        "data": [1.5, None, None],
    }
