"""What is large is done in a thread, and numbers are written the same however many there are."""

from __future__ import annotations

import threading

import msgspec
import numpy as np
import pytest

from shoal.api.offload import HEAVY, SLICE, encode_numbers, offload


@pytest.mark.parametrize(("size", "here"), [(0, True), (HEAVY - 1, True), (HEAVY, False)])
async def test_work_on_large_bodies_is_done_in_a_thread(size: int, here: bool) -> None:
    assert (await offload(size, threading.get_ident) == threading.get_ident()) == here


@pytest.mark.parametrize("count", [0, 1, SLICE, SLICE + 1, 3 * SLICE])
def test_slices_of_numbers_join_to_one_list(count: int) -> None:
    numbers = np.random.default_rng(7).standard_normal(count).astype(np.float32)
    assert bytes(encode_numbers(numbers)) == msgspec.json.encode(numbers.tolist())
    assert bytes(encode_numbers(numbers.reshape(1, -1, 1))) == msgspec.json.encode(numbers.tolist())
