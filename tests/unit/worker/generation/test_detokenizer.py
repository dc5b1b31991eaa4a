from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.worker.generation.detokenizer import Detokenizer


def feed(pieces: list[bytes], stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    detokenizer = Detokenizer(stop)
    texts = [detokenizer.feed(piece) for piece in pieces]
    return [*texts, detokenizer.finish()], detokenizer.stopped


def expected(data: bytes, stop: tuple[str, ...]) -> str:
    """Character by character: the first at which a stop string is complete ends the text, before the longest."""
    text = data.decode(errors="replace")
    for end in range(1, len(text) + 1):
        found = [one for one in stop if text[:end].endswith(one)]
        if found:
            return text[: end - max(map(len, found))]
    return text


@pytest.mark.parametrize(
    ("pieces", "stop", "texts", "stopped"),
    [
        ([b"ab", b"c"], (), ["ab", "c", ""], False),
        ([b"\xc3", b"\xa4"], (), ["", "ä", ""], False),
        ([b"\xe2\x82"], (), ["", "\ufffd"], False),
        ([b"a\xffb"], (), ["a\ufffdb", ""], False),
        ([b"one END two"], ("END",), ["one ", ""], True),
        ([b"one E", b"N", b"D two"], ("END",), ["one ", "", "", ""], True),
        ([b"one E", b"Nd"], ("END",), ["one ", "ENd", ""], False),
        ([b"one E"], ("END",), ["one ", "E"], False),
        ([b"xEND", b"more"], ("END",), ["x", "", ""], True),
        ([b"aab", b"aac"], ("aac",), ["aab"[:3], "", ""], True),
        ([b"abcd"], ("abcd", "bc"), ["a", ""], True),
        ([b"abcd"], ("d", "abcd"), ["", ""], True),
    ],
)
def test_text_comes_out_as_soon_as_it_is_certain(
    pieces: list[bytes], stop: tuple[str, ...], texts: list[str], stopped: bool
) -> None:
    assert feed(pieces, stop) == (texts, stopped)


@given(
    pieces=st.lists(st.binary(max_size=4) | st.text("abä€", max_size=4).map(str.encode), max_size=12),
    stop=st.lists(st.text("abä€\ufffd", min_size=1, max_size=4), max_size=3).map(tuple),
)
def test_any_cut_gives_the_text_of_the_whole(pieces: list[bytes], stop: tuple[str, ...]) -> None:
    texts, _ = feed(pieces, stop)
    assert "".join(texts) == expected(b"".join(pieces), stop)
