from __future__ import annotations

import numpy as np
import pytest

from shoal.engines.echo import EchoEngine
from shoal.errors import InvalidRequest
from shoal.types import DTYPES, Tensors


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3)])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_any_array_comes_back_as_it_is(dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, dtype)
    assert EchoEngine().run({"input": array})["output"] is array


@pytest.mark.parametrize("inputs", [{}, {"x": np.zeros(1)}, {"input": np.zeros(1), "x": np.zeros(1)}])
def test_other_inputs_are_refused(inputs: Tensors) -> None:
    with pytest.raises(InvalidRequest, match="one input named 'input'"):
        EchoEngine().run(inputs)
