"""The OpenVINO engine with SmolLM2: the same bits in any company, and nearly llama.cpp's logits."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from models import smollm2_folder

from shoal.engines.base import EngineOptions, Logits, Row
from shoal.engines.openvino import OpenVINOEngine
from shoal.engines.openvino_graph import OPENVINO_VERSION, require_version
from shoal.errors import EngineFailed, ModelLoadFailed

BLOCK = 32
ROOM = 20  # blocks a sequence has in these tests
OPTIONS = EngineOptions(kv_tokens=8 * ROOM * BLOCK, max_sequences=16)
TEXT = np.random.default_rng(0).integers(100, 40_000, 600).tolist()  # ids of whole words
REFERENCE = json.loads((Path(__file__).parent / "data" / "smollm2_reference.json").read_text())


@pytest.fixture(scope="module")
def folder() -> Path:
    return smollm2_folder()


@pytest.fixture(scope="module", params=[1, 2], ids=["1 thread", "2 threads"])
def engine(request: pytest.FixtureRequest, folder: Path) -> Iterator[OpenVINOEngine]:
    engine = OpenVINOEngine(folder, EngineOptions(request.param, OPTIONS.kv_tokens, OPTIONS.max_sequences))
    yield engine
    engine.close()


def blocks(sequence: int) -> range:
    return range(sequence * ROOM, (sequence + 1) * ROOM)


def prompt(tokens: Sequence[int], sequence: int, start: int = 0) -> Row:
    return Row(tokens, start, blocks(sequence), wants_logits=True)


def generated(tokens: Sequence[int], sequence: int, start: int) -> Row:
    return Row(tokens, start, blocks(sequence), wants_logits=True, generated=True)


def run(engine: OpenVINOEngine, *rows: Row) -> Logits:
    return engine.step(rows).copy()


# -- the same bits in any company


# Without a ghost row, these tokens are among the few whose bits differ on the CPU this was written on.
@pytest.mark.parametrize(("context", "token"), [(20, 7), (40, 7), (70, 182), (130, 257), (300, 232), (500, 7)])
def test_a_generated_token_gets_the_same_bits_alone_and_in_a_batch(
    engine: OpenVINOEngine, context: int, token: int
) -> None:
    run(engine, prompt(TEXT[:context], 0), *(prompt(TEXT[n : n + 10 * n], n) for n in range(1, 8)))
    rows = [generated([token], 0, context), *(generated([7], n, 10 * n) for n in range(1, 8))]
    together = run(engine, *rows)
    for count in (1, 2, 3):
        assert np.array_equal(run(engine, *rows[:count]), together[:count])
    with_a_prompt = run(engine, rows[0], prompt(TEXT[:100], 1))
    assert np.array_equal(with_a_prompt[0], together[0])


@pytest.mark.parametrize("cut", [[32, 32, 16], [64, 16], [1, 7, 30, 1, 1, 40], [79, 1], [2] * 40])
def test_cutting_a_prompt_changes_no_bit(engine: OpenVINOEngine, cut: list[int]) -> None:
    whole = run(engine, prompt(TEXT[:80], 0))
    start = 0
    logits = whole
    for length in cut:
        logits = run(engine, prompt(TEXT[start : start + length], 1, start), generated([7], 0, 80))
        start += length
    assert np.array_equal(logits[0], whole[0])
    assert np.array_equal(run(engine, generated([9], 1, 80)), run(engine, generated([9], 0, 80)))


def test_an_answer_is_taken_up_elsewhere_in_one_step(engine: OpenVINOEngine) -> None:
    answer = TEXT[300:340]
    run(engine, prompt(TEXT[:40], 0))
    first = [run(engine, generated([token], 0, 40 + index)) for index, token in enumerate(answer)][-1]
    run(engine, prompt(TEXT[:40], 1))
    again = run(engine, generated(answer, 1, 40))
    assert np.array_equal(first, again)
    assert np.array_equal(run(engine, generated([9], 1, 80)), run(engine, generated([9], 0, 80)))


def test_sequences_share_the_blocks_of_a_prefix(engine: OpenVINOEngine) -> None:
    run(engine, prompt(TEXT[:64], 0))
    tails = [TEXT[100:110], TEXT[200:233]]
    rows = [Row(tail, 64, [*blocks(0)[:2], *blocks(i + 1)], wants_logits=True) for i, tail in enumerate(tails)]
    shared = run(engine, *rows)
    for logits, tail in zip(shared, tails, strict=True):
        assert np.array_equal(logits, run(engine, prompt(TEXT[:64] + tail, 3))[0])


def test_what_was_in_memory_before_is_not_seen(engine: OpenVINOEngine) -> None:
    before = run(engine, prompt(TEXT[:70], 0), generated([7], 1, 0))
    poison(engine)
    assert np.array_equal(run(engine, prompt(TEXT[:70], 0), generated([7], 1, 0)), before)


def poison(engine: OpenVINOEngine) -> None:
    """Make every number in the KV memory a NaN."""
    for tensor in engine._kv.tensors:
        tensor.data.view(np.uint16)[:] = 0x7FFF


# -- a step


def test_logits_come_for_the_rows_that_want_them_in_their_order(engine: OpenVINOEngine) -> None:
    silent = Row(TEXT[:40], 0, blocks(0), wants_logits=False)
    first, second = prompt(TEXT[:10], 1), prompt(TEXT[10:30], 2)
    logits = run(engine, first, silent, second)
    assert logits.shape == (2, engine.capabilities.vocab_size)
    assert np.array_equal(logits, np.concatenate([run(engine, first), run(engine, second)]))
    assert run(engine, silent).shape == (0, engine.capabilities.vocab_size)


def test_the_capabilities_are_those_of_the_model_and_the_machine(engine: OpenVINOEngine) -> None:
    can = engine.capabilities
    assert (can.vocab_size, can.block_size, can.num_blocks, can.max_sequences) == (49152, BLOCK, 8 * ROOM, 16)
    assert can.context_length == OPTIONS.kv_tokens  # less than the model's own 8192


@pytest.mark.parametrize(
    "row",
    [
        Row([], 0, [0], wants_logits=True),
        Row([1], -1, [0], wants_logits=True),
        Row([1], 32, [0], wants_logits=True),
        Row([1] * 33, 0, [0], wants_logits=True),
        Row([1], 0, [8 * ROOM], wants_logits=True),
        Row([1], 0, [-1], wants_logits=True),
        Row([49152], 0, [0], wants_logits=True),
        Row([-1], 0, [0], wants_logits=True),
        Row([1], OPTIONS.kv_tokens, [0] * 1000, wants_logits=True),
        Row([1] * 2049, 0, range(100), wants_logits=True),
    ],
)
def test_a_row_that_would_write_where_it_must_not_is_refused(engine: OpenVINOEngine, row: Row) -> None:
    with pytest.raises(EngineFailed):
        engine.step([row])


@pytest.mark.parametrize("count", [0, 17])
def test_a_step_of_no_rows_or_of_too_many_is_refused(engine: OpenVINOEngine, count: int) -> None:
    with pytest.raises(EngineFailed, match="1 to 16 rows"):
        engine.step([prompt([1], 0)] * count)


# -- failing, and going on


def interrupt_until_it_ends(engine: OpenVINOEngine, row: Row) -> EngineFailed | None:
    """Interrupt a step as soon as it runs, wherever it is by then."""
    caught: list[EngineFailed] = []

    def step() -> None:
        try:
            engine.step([row])
        except EngineFailed as exc:
            caught.append(exc)

    thread = threading.Thread(target=step)
    thread.start()
    while thread.is_alive():
        engine.interrupt()
        thread.join(0.005)
    return caught[0] if caught else None


def test_after_an_interrupted_step_the_next_is_as_ever(engine: OpenVINOEngine) -> None:
    long = prompt(TEXT, 0)
    # The sizes of the step before the interrupted one are those that OpenVINO is mistaken about afterwards.
    for before in ([prompt(TEXT[:40], 1)], [prompt(TEXT[:2], 1), prompt(TEXT[:3], 2)], [generated([7], 1, 0)]):
        expected = run(engine, *before)
        assert isinstance(interrupt_until_it_ends(engine, long), EngineFailed)
        assert np.array_equal(run(engine, *before), expected)


def test_an_interrupt_when_nothing_runs_is_harmless(engine: OpenVINOEngine) -> None:
    expected = run(engine, prompt(TEXT[:40], 0))
    engine.interrupt()
    assert np.array_equal(run(engine, prompt(TEXT[:40], 0)), expected)


def test_logits_that_are_no_numbers_fail_the_step_and_no_other(engine: OpenVINOEngine) -> None:
    expected = run(engine, prompt(TEXT[:40], 0))
    poison(engine)
    with pytest.raises(EngineFailed, match="not finite"):
        engine.step([generated([7], 1, 40), prompt(TEXT[:40], 0)])
    assert np.array_equal(run(engine, prompt(TEXT[:40], 0)), expected)


# -- loading


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("openvino_model.xml", None),
        ("openvino_model.xml", b"<net"),
        ("openvino_model.xml", b""),
        ("openvino_model.bin", None),
        ("openvino_model.bin", b"short"),
        ("tokenizer.json", None),
        ("tokenizer.json", b"{}"),
        ("model.json", None),
    ],
)
def test_a_damaged_folder_does_not_load(folder: Path, tmp_path: Path, file: str, content: bytes | None) -> None:
    damaged = Path(shutil.copytree(folder, tmp_path / "model", copy_function=os.link))
    (damaged / file).unlink()
    if content is not None:
        (damaged / file).write_bytes(content)
    with pytest.raises(ModelLoadFailed, match=str(damaged)):
        OpenVINOEngine(damaged, OPTIONS)


def test_more_memory_than_there_is_does_not_load(folder: Path) -> None:
    with pytest.raises(ModelLoadFailed, match="no memory for the KV"):
        OpenVINOEngine(folder, EngineOptions(kv_tokens=10**13))


def test_another_release_of_openvino_is_refused() -> None:
    require_version(f"{OPENVINO_VERSION}-22982-releases/2026/4")
    with pytest.raises(ModelLoadFailed, match=rf"needs openvino {OPENVINO_VERSION}; found 2027\.0\.0"):
        require_version("2027.0.0-1-releases/2027/0")


# -- the model (data/smollm2_reference.json was made with llama.cpp by make_smollm2_reference.py)


def test_the_logits_are_nearly_llama_cpps(engine: OpenVINOEngine) -> None:
    tokens = REFERENCE["tokens"]
    assert engine.tokenizer.encode(REFERENCE["text"], special=False) == tokens
    logits = np.array([run(engine, generated([token], 0, i))[0] for i, token in enumerate(tokens)])
    # In bf16 the neighbours of a logit of 20 are 0.125 away: that much is a tie.
    lead = logits.max(axis=1) - logits[range(len(tokens)), REFERENCE["argmax"]]
    assert np.mean(lead <= 0.125) >= 0.9
    assert lead.max() < 1.0
    assert np.abs(logits[:, REFERENCE["kept_tokens"]] - REFERENCE["logits"]).mean() < 0.35


def test_the_answer_is_llama_cpps(engine: OpenVINOEngine) -> None:
    question, answer = REFERENCE["question_tokens"], REFERENCE["answer"]
    ours = [int(run(engine, prompt(question, 0))[0].argmax())]
    while len(ours) < len(answer):
        row = generated([ours[-1]], 0, len(question) + len(ours) - 1)
        ours.append(int(run(engine, row)[0].argmax()))
    assert ours == answer
    assert b"".join(map(engine.tokenizer.token_bytes, ours)).startswith(b"1. 1\n2. 2\n3. 3\n")
