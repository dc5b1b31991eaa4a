"""Language models on plain OpenVINO, with scheduling, block tables and KV memory in our hands.

What a token's logits are follows from its own sequence alone, to the bit: ``openvino_batch`` says how.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path

import numpy as np
import openvino as ov

from shoal.engines.base import Capabilities, EngineOptions, LanguageEngine, Logits, Row
from shoal.engines.gguf_tokenizer import SavedTokenizer
from shoal.engines.model_folder import GRAPH_FILE, TOKENIZER_FILE, read_card
from shoal.engines.openvino_batch import Part, ghost, pack, plan
from shoal.engines.openvino_graph import attach_kv, compile_paged
from shoal.errors import EngineFailed

MAX_STEP_TOKENS = 2048  # bounds the memory of a step's activations


class OpenVINOEngine(LanguageEngine):
    """Serves a folder made by :mod:`shoal.model_store.convert_gguf`."""

    def __init__(self, path: Path, options: EngineOptions) -> None:
        """Raises :class:`~shoal.errors.ModelLoadFailed`."""
        card = read_card(path)
        self.tokenizer = SavedTokenizer(path / TOKENIZER_FILE, card)
        compiled = compile_paged(path / GRAPH_FILE, options.threads)
        self._request = compiled.create_infer_request()
        self._kv = attach_kv(compiled, self._request, tokens=options.kv_tokens, spare=1)
        self._ghost_block = self._kv.num_blocks  # lent to no sequence; what is in it is garbage
        self._threads = options.threads
        self._sizes: set[int] = set()  # of the inputs of the last good step
        self._broken_off = False  # has a step failed since?
        self.capabilities = Capabilities(
            vocab_size=compiled.output(0).partial_shape[2].get_length(),
            context_length=min(card.context_length, self._kv.num_blocks * self._kv.block_size),
            block_size=self._kv.block_size,
            num_blocks=self._kv.num_blocks,
            max_sequences=options.max_sequences,
            max_step_tokens=MAX_STEP_TOKENS,
            share_prefixes=True,
            max_generated=MAX_STEP_TOKENS,
        )

    def step(self, rows: Sequence[Row]) -> Logits:
        _check(rows, self.capabilities)
        if self._broken_off:
            self._infer(self._unlike_the_last())
        logits = self._infer(plan(rows, threads=self._threads, ghost_block=self._ghost_block))
        # The sum of finite logits is finite; one NaN or infinity shows in it.
        if not np.isfinite(logits.sum()):
            raise EngineFailed("the model computed logits that are not finite")
        return logits

    def interrupt(self) -> None:
        self._request.cancel()

    def _infer(self, parts: Sequence[Part]) -> Logits:
        inputs = pack(parts, self._kv.block_size)
        self._broken_off = True
        try:
            for name, array in inputs.items():
                self._request.set_tensor(name, ov.Tensor(array, shared_memory=True))
            # Not infer(): on one thread that computes in the caller's and cannot be cancelled.
            self._request.start_async()
            self._request.wait()
        except RuntimeError as exc:
            raise EngineFailed(f"OpenVINO did not compute the step: {exc}") from exc
        self._broken_off = False
        self._sizes = {array.size for array in inputs.values()}
        logits: Logits = self._request.get_output_tensor(0).data.reshape(-1, self.capabilities.vocab_size)
        return logits

    def _unlike_the_last(self) -> list[Part]:
        """Ghosts that set OpenVINO right after a step was broken off.

        It has then noted the sizes of that step for results that it has not computed, and does not look again
        where a step's sizes are those of the last good one: such a step fails, or worse. So compute one that has
        no size in common with it.
        """
        parts = next(number for number in count(1) if number not in self._sizes)
        tokens = next(number for number in count(2) if parts * number not in self._sizes)
        return [ghost(self._ghost_block, tokens=tokens, sampled=0)] * parts


def _check(rows: Sequence[Row], can: Capabilities) -> None:
    """Native code takes what it gets: a wrong block number would write over another sequence's memory."""
    if not 0 < len(rows) <= can.max_sequences:
        raise EngineFailed(f"a step has 1 to {can.max_sequences} rows, not {len(rows)}")
    if sum(len(row.tokens) for row in rows) > can.max_step_tokens:
        raise EngineFailed(f"a step has at most {can.max_step_tokens} tokens")
    for row in rows:
        end = row.start + len(row.tokens)
        if not row.tokens or row.start < 0 or end > min(can.context_length, len(row.blocks) * can.block_size):
            raise EngineFailed(f"positions {row.start} to {end} do not fit the row's blocks or the context")
        if min(row.blocks) < 0 or max(row.blocks) >= can.num_blocks:
            raise EngineFailed(f"blocks are numbered from 0 to {can.num_blocks - 1}")
        if min(row.tokens) < 0 or max(row.tokens) >= can.vocab_size:
            raise EngineFailed(f"tokens are numbered from 0 to {can.vocab_size - 1}")
