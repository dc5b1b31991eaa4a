"""SmolLM2 in Q4_1 on llama.cpp: real weights, the real library."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pytest
from models import smollm2_gguf

from shoal.engines.base import EngineOptions, Logits, Row
from shoal.engines.llama import LlamaEngine
from shoal.errors import EngineFailed, ModelLoadFailed
from shoal.types import TokenId

OPTIONS = EngineOptions(threads=1, kv_tokens=9 * 1024, max_sequences=9)
TOKENS: list[TokenId] = np.random.default_rng(7).integers(20, 49_000, 700).tolist()


@pytest.fixture(scope="module")
def model() -> Path:
    return smollm2_gguf()


@pytest.fixture(scope="module")
def engine(model: Path) -> Iterator[LlamaEngine]:
    with closing(LlamaEngine(model, OPTIONS)) as engine:
        yield engine


def read(engine: LlamaEngine, tokens: list[TokenId], block: int, chunk: int = 512) -> Logits:
    """Prefill in chunks; the logits after the last token."""
    last = (len(tokens) - 1) // chunk * chunk
    for start in range(0, last, chunk):
        logits = engine.step([Row(tokens[start : start + chunk], start, (block,), wants_logits=False)])
        assert logits.shape == (0, engine.capabilities.vocab_size)
    return engine.step([Row(tokens[last:], last, (block,), wants_logits=True)]).copy()


def continue_alone(engine: LlamaEngine, block: int, prompt: list[TokenId], steps: int) -> list[Logits]:
    read(engine, prompt, block)
    return [engine.step([Row((TOKENS[step],), len(prompt) + step, (block,), True)])[0].copy() for step in range(steps)]


# -- what it computes


def test_it_knows_the_capital_of_france(engine: LlamaEngine) -> None:
    tokenizer = engine.tokenizer
    text = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    prompt = tokenizer.encode(text, special=True)
    logits = read(engine, prompt, 0)
    answer: list[TokenId] = []
    while (token := int(logits[0].argmax())) not in tokenizer.eos_ids and len(answer) < 16:
        logits = engine.step([Row((token,), len(prompt) + len(answer), (0,), True)])
        answer.append(token)

    assert b"Paris" in b"".join(map(tokenizer.token_bytes, answer))


def test_logits_come_in_the_order_of_the_rows_that_want_them(engine: LlamaEngine) -> None:
    prompts = [TOKENS[:40], TOKENS[100:133], TOKENS[200:201], TOKENS[300:320]]
    alone = [read(engine, prompt, 8) for prompt in prompts]

    blocks = (5, 2, 7, 0)
    rows = [Row(prompt, 0, (block,), block != 2) for prompt, block in zip(prompts, blocks, strict=True)]
    logits = engine.step(rows)

    assert logits.shape == (3, engine.capabilities.vocab_size)
    for found, wanted in zip(logits, [alone[0], alone[2], alone[3]], strict=True):
        assert np.array_equal(found, wanted[0])


# -- the same bits in any company


def test_a_row_has_the_same_bits_alone_and_among_others(engine: LlamaEngine) -> None:
    prompts = [TOKENS[block : block + 40] for block in range(8)]
    alone = [continue_alone(engine, block, prompt, 3) for block, prompt in enumerate(prompts)]
    for count in (2, 4, 8):
        for step in range(3):
            rows = [Row((TOKENS[step],), 40 + step, (block,), True) for block in range(count)]
            logits = engine.step(rows)
            for block in range(count):
                assert np.array_equal(logits[block], alone[block][step])


def test_a_long_row_has_the_same_bits_alone_and_in_company_on_two_threads(model: Path) -> None:
    # Threads may share the context of a row that is alone, and then add in another order.
    with closing(LlamaEngine(model, EngineOptions(threads=2, kv_tokens=2048, max_sequences=2))) as engine:
        alone = continue_alone(engine, 0, TOKENS[:280], 1)
        read(engine, TOKENS[:40], 1)
        rows = [Row((TOKENS[0],), 280, (0,), True), Row((TOKENS[0],), 40, (1,), True)]
        assert np.array_equal(engine.step(rows)[0], alone[0])


def test_a_row_has_the_same_bits_beside_prompts_that_are_read(engine: LlamaEngine) -> None:
    alone = continue_alone(engine, 4, TOKENS[:50], 3)
    read(engine, TOKENS[:50], 4)
    for step, size in enumerate((33, 40, 5)):
        prompt = TOKENS[3:35] + TOKENS[50 : 50 + size]
        whole = read(engine, prompt, 3)
        read(engine, TOKENS[:32], 5)
        rows = [
            Row(prompt[32:], 32, (3,), True),
            Row((TOKENS[step],), 50 + step, (4,), True),  # llama.cpp could compute neighbours together
            Row(TOKENS[:64], 32, (5,), False),
        ]
        logits = engine.step(rows)
        assert np.array_equal(logits[0], whole[0])
        assert np.array_equal(logits[1], alone[step])


@pytest.mark.parametrize("length", [33, 39, 40, 64, 65, 101])
def test_a_prompt_has_the_same_bits_however_it_is_cut(engine: LlamaEngine, length: int) -> None:
    prompt = TOKENS[:length]
    whole = read(engine, prompt, 0)
    after = engine.step([Row((9,), length, (0,), True)]).copy()
    for chunk in (32, 64):
        assert np.array_equal(read(engine, prompt, 3, chunk), whole)
        assert np.array_equal(engine.step([Row((9,), length, (3,), True)]), after)


# -- memory


def test_a_block_that_another_sequence_had_starts_anew(engine: LlamaEngine) -> None:
    fresh = read(engine, TOKENS[:70], 1)
    read(engine, TOKENS[100:300], 1)

    assert np.array_equal(read(engine, TOKENS[:70], 1), fresh)


def test_positions_from_the_start_of_a_row_on_are_forgotten(engine: LlamaEngine) -> None:
    alone = continue_alone(engine, 2, TOKENS[:64], 2)
    read(engine, TOKENS[:64], 2)
    read(engine, TOKENS[:64] + TOKENS[300:340], 2)

    for step in range(2):
        found = engine.step([Row((TOKENS[step],), 64 + step, (2,), True)])
        assert np.array_equal(found[0], alone[step])


def test_a_row_that_starts_beyond_what_its_block_holds_is_refused(engine: LlamaEngine) -> None:
    read(engine, TOKENS[:10], 3)
    with pytest.raises(EngineFailed, match="position 11, but its block holds 10"):
        engine.step([Row((1,), 11, (3,), True)])
    engine.step([Row((1,), 10, (3,), True)])


def test_a_sequence_can_fill_its_context_and_no_more(model: Path) -> None:
    with closing(LlamaEngine(model, EngineOptions(kv_tokens=256))) as small:
        assert small.capabilities.context_length == 256
        read(small, TOKENS[:256], 0)
        with pytest.raises(EngineFailed, match="the context is 256 tokens"):
            small.step([Row((1,), 256, (0,), True)])


MISUSE = """
import sys
from pathlib import Path
from shoal.engines.base import EngineOptions, Row
from shoal.engines.llama import LlamaEngine
from shoal.errors import EngineFailed, InvalidRequest
engine = LlamaEngine(Path(sys.argv[1]), EngineOptions(kv_tokens=1024, max_sequences=1))
limits = engine.capabilities
assert (limits.num_blocks, limits.max_step_tokens) == (1, 512)
wrong = [
    [Row((1,) * 513, 0, (0,), True)],
    [Row((1,), 0, (1,), True)],
    [Row((1,), 0, (-1,), True)],
    [Row((1,), 5, (0,), True)],
    [Row((1,), -1, (0,), True)],
    [Row((limits.vocab_size,), 0, (0,), True)],
    [Row((-1,), 0, (0,), True)],
    [Row((), 0, (0,), True)],
    [Row((1,), 0, (0,), True), Row((1,), 0, (0,), True)],
]
for rows in wrong:
    try:
        engine.step(rows)
    except EngineFailed as error:
        print(error.message)
for token in (-1, limits.vocab_size, 2**40):
    try:
        engine.tokenizer.token_bytes(token)
    except InvalidRequest as error:
        print(error.message)
assert engine.step([]).shape == (0, limits.vocab_size)
assert engine.step([Row((1,), 0, (0,), True)]).shape == (1, limits.vocab_size)
engine.close()
engine.close()
engine.interrupt()
for use in (lambda: engine.step([Row((1,), 0, (0,), True)]), lambda: engine.tokenizer.encode("a", special=False)):
    try:
        use()
    except EngineFailed as error:
        print(error.message)
"""


def test_misuse_raises_and_does_not_abort_the_process(model: Path) -> None:
    # In a process of its own: what is not refused here kills whoever asked.
    ended = subprocess.run(
        [sys.executable, "-c", MISUSE, str(model)], capture_output=True, text=True, timeout=60, check=False
    )

    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) == 14, ended.stdout


# -- interrupting, failing to load, closing


def test_interrupt_ends_a_running_step_and_the_engine_works_afterwards(engine: LlamaEngine) -> None:
    alone = continue_alone(engine, 0, TOKENS[:64], 1)
    read(engine, TOKENS[:64], 0)
    read(engine, TOKENS[:64], 1)
    begin = time.monotonic()
    read(engine, TOKENS[:320], 2)
    full = time.monotonic() - begin

    timer = threading.Timer(full / 10, engine.interrupt)
    timer.start()
    begin = time.monotonic()
    with pytest.raises(EngineFailed, match="interrupted"):
        engine.step([Row(TOKENS[:320], 0, (2,), True), Row((TOKENS[0],), 64, (1,), True)])
    elapsed = time.monotonic() - begin
    timer.join()

    assert elapsed < full * 0.7
    assert np.array_equal(engine.step([Row((TOKENS[0],), 64, (0,), True)])[0], alone[0])
    assert np.array_equal(engine.step([Row((TOKENS[0],), 64, (1,), True)])[0], alone[0])
    assert np.array_equal(read(engine, TOKENS[:64] + TOKENS[:1], 2, 64)[0], alone[0])


def test_interrupt_without_a_step_is_harmless(engine: LlamaEngine) -> None:
    engine.interrupt()
    read(engine, TOKENS[:8], 0)


@pytest.mark.parametrize("content", [None, b"", b"GGUF", b"not a model" * 1000])
def test_a_file_that_is_no_model_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "broken.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelLoadFailed, match=r"llama.cpp cannot load broken.gguf: (?!no reason)"):
        LlamaEngine(path, OPTIONS)


def test_a_model_cut_short_is_refused(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.gguf"
    with model.open("rb") as source:
        path.write_bytes(source.read(20_000_000))
    with pytest.raises(ModelLoadFailed, match=r"cannot load short.gguf: .*bounds"):
        LlamaEngine(path, OPTIONS)


def test_too_little_memory_is_refused_and_leaves_nothing_open(model: Path) -> None:
    with pytest.raises(ModelLoadFailed, match="kv_tokens is 100"):
        LlamaEngine(model, EngineOptions(kv_tokens=100))


def test_two_engines_in_a_process_do_not_touch_each_other(model: Path, engine: LlamaEngine) -> None:
    first = read(engine, TOKENS[:40], 0)
    with closing(LlamaEngine(model, EngineOptions(threads=1, kv_tokens=2048, max_sequences=2))) as second:
        assert np.array_equal(read(second, TOKENS[:40], 1), first)
        second.interrupt()
        assert np.array_equal(read(engine, TOKENS[:40], 0), first)
    assert np.array_equal(read(engine, TOKENS[:40], 0), first)


def test_close_frees_the_memory(model: Path) -> None:
    process, options = psutil.Process(), EngineOptions(kv_tokens=8192, max_sequences=2)  # 190 MB of KV alone
    LlamaEngine(model, options).close()  # what the allocator keeps for the next one
    before = process.memory_info().rss
    for _ in range(5):
        LlamaEngine(model, options).close()
    assert process.memory_info().rss - before < 400_000_000
