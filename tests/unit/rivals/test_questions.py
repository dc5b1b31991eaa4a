from __future__ import annotations

import msgspec
import pytest
from rivals.embeddings import QUESTIONS as TEXTS
from rivals.embeddings import WORDS
from rivals.entrant import Figures, Server
from rivals.overhead import OVERHEAD, REST
from rivals.overhead import QUESTIONS as NUMBERS
from rivals.questions import FIRST
from rivals.results import begin, spread

SERVERS = [entrant for entrant in OVERHEAD.entrants if isinstance(entrant, Server)]


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.name)
def test_every_server_gets_the_same_numbers_in_as_many_bytes(server: Server) -> None:
    for number in (FIRST, 87_654_321):
        body = NUMBERS.body(server, number)
        assert len(body) == 200
        decoded = msgspec.json.decode(body)
        assert decoded == server.ask([number, *REST])


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.name)
def test_a_template_and_a_spelt_number_are_a_body(server: Server) -> None:
    head, tail = NUMBERS.template(server)
    assert head + NUMBERS.spell(31_415_926).encode() + tail == NUMBERS.body(server, 31_415_926)


def test_a_text_is_as_many_words_whatever_its_number() -> None:
    texts = {TEXTS.make(TEXTS.spell(number)) for number in (FIRST, FIRST + 1, 99_999_999)}
    assert len(texts) == 3
    assert {len(text.split()) for text in texts} == {62}
    assert all(set(text.split()) <= set(WORDS) for text in texts)


def test_an_answer_that_belongs_to_another_question_is_not_right() -> None:
    right = [[FIRST, *REST], [FIRST + 1, *REST]]
    assert NUMBERS.right([FIRST, FIRST + 1], right)
    assert not NUMBERS.right([FIRST, FIRST + 1], right[::-1])
    assert not NUMBERS.right([FIRST, FIRST + 1], right[:1])


def test_ratios_are_of_the_runs_of_one_round() -> None:
    results = begin("overhead", "requests/s", clients=1, seconds=1)
    results.runs = {
        "base": [Figures(rate=100), Figures(rate=10), Figures(rate=50)],
        "other": [Figures(rate=50), Figures(rate=10), Figures(rate=10)],
    }
    assert results.ratios("other", "base") == [0.5, 1.0, 0.2]
    assert spread(results.ratios("other", "base")) == "0.50 (0.20-1.00)"
