"""Language models in GGUF files, on llama.cpp: any family it knows, on any platform it runs on.

llama.cpp's sequences share no KV, so each has one block as long as its context, and a row's one block is llama.cpp's
number of the sequence. Hand out low numbers first: llama.cpp computes only neighbouring sequences together.

:mod:`shoal.engines.llama_plan` says what goes into which call, and for which types of weights a row's logits are the
same bits in any company: SmolLM2's Q4_1 is one, F16 and the K quants are not.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shoal.engines.base import Capabilities, EngineOptions, LanguageEngine, Logits, Row
from shoal.engines.llama_abi import AbortFlag, Batch, ContextParams, complaints, llama
from shoal.engines.llama_plan import MAX_STEP_TOKENS, Part, Room, check_rows, divide, plan_calls
from shoal.engines.llama_tokenizer import LlamaTokenizer
from shoal.errors import EngineFailed, ModelLoadFailed

FLASH_ATTENTION_OFF = 0
TO_THE_END = -1
ABORTED = 2  # what llama_decode answers when the abort flag was up


class _CallMemory:
    """The arrays behind a ``llama_batch``, reused by every call."""

    def __init__(self, tokens: int, sequences: int) -> None:
        self._token = np.zeros(tokens, np.int32)
        self._position = np.zeros(tokens, np.int32)
        self._wanted = np.zeros(tokens, np.int8)
        self._sequence = np.zeros(tokens, np.uintp)  # addresses in _numbers
        self._ones = np.ones(tokens, np.int32)  # each token belongs to one sequence
        self._numbers = np.arange(sequences, dtype=np.int32)
        self._batch = Batch(
            token=self._token.ctypes.data,
            pos=self._position.ctypes.data,
            n_seq_id=self._ones.ctypes.data,
            seq_id=self._sequence.ctypes.data,
            logits=self._wanted.ctypes.data,
        )

    def fill(self, parts: Sequence[Part]) -> Batch:
        begin = 0
        for part in parts:
            end = begin + len(part.tokens)
            self._token[begin:end] = part.tokens
            self._position[begin:end] = np.arange(part.start, part.start + len(part.tokens))
            self._sequence[begin:end] = self._numbers.ctypes.data + part.sequence * self._numbers.itemsize
            self._wanted[begin:end] = 0
            self._wanted[end - 1] = part.output is not None
            begin = end
        self._batch.n_tokens = begin
        return self._batch


class LlamaEngine(LanguageEngine):
    """A GGUF file on llama.cpp. For models that remember by attention; recurrent ones cannot take back a token."""

    tokenizer: LlamaTokenizer

    def __init__(self, path: Path, options: EngineOptions) -> None:
        """Raises :class:`~shoal.errors.ModelLoadFailed`."""
        self._model: int | None = None
        self._context: int | None = None
        self._abort = AbortFlag(llama)
        try:
            self._open(path, options)
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path, options: EngineOptions) -> None:
        complaints()
        self._model = llama.llama_model_load_from_file(os.fsencode(path), llama.llama_model_default_params())
        if self._model is None:
            raise ModelLoadFailed(f"llama.cpp cannot load {path.name}: {complaints()}")
        if llama.llama_model_has_encoder(self._model):
            raise ModelLoadFailed(f"{path.name} is a model with an encoder; the llama engine runs decoders only")
        self.tokenizer = LlamaTokenizer(self._model)
        room = divide(options.kv_tokens, options.max_sequences, llama.llama_model_n_ctx_train(self._model))
        self._context = llama.llama_init_from_model(self._model, self._context_params(room, options.threads))
        self._memory = llama.llama_get_memory(self._context) if self._context else None
        if self._memory is None:
            raise ModelLoadFailed(f"llama.cpp cannot make a context for {path.name}: {complaints()}")
        self.capabilities = Capabilities(
            vocab_size=self.tokenizer.vocab_size,
            context_length=room.context,
            block_size=room.context,
            num_blocks=room.sequences,
            max_sequences=room.sequences,
            max_step_tokens=llama.llama_n_batch(self._context),
            share_prefixes=False,
            max_generated=1,
        )
        self._call = _CallMemory(self.capabilities.max_step_tokens, room.sequences)
        self._logits: Logits = np.zeros((room.sequences, self.tokenizer.vocab_size), np.float32)

    def _context_params(self, room: Room, threads: int) -> ContextParams:
        params: ContextParams = llama.llama_context_default_params()
        params.n_ctx = room.cells * room.sequences
        params.n_seq_max = params.n_outputs_max = room.sequences
        params.n_batch = params.n_ubatch = min(MAX_STEP_TOKENS, params.n_ctx)
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = FLASH_ATTENTION_OFF
        params.kv_unified = False
        params.abort_callback = self._abort.callback
        params.abort_callback_data = self._abort.data
        return params

    def step(self, rows: Sequence[Row]) -> Logits:
        self._abort.clear()
        if self._context is None:
            raise EngineFailed("the engine is closed")
        check_rows(rows, self.capabilities)
        for row in rows:
            self._rewind(row.blocks[0], row.start)
        for parts in plan_calls(rows):
            self._decode(parts)
        logits = self._logits[: sum(row.wants_logits for row in rows)]
        # The largest of a row is NaN or infinite if any is; a model may rule out a token by minus infinity.
        if not np.isfinite(logits.max(axis=1)).all():
            raise EngineFailed("the model computed logits that are not finite")
        return logits

    def _rewind(self, sequence: int, start: int) -> None:
        held = llama.llama_memory_seq_pos_max(self._memory, sequence) + 1
        if held < start:
            raise EngineFailed(f"a row starts at position {start}, but its block holds {held} tokens")
        if held > start and not llama.llama_memory_seq_rm(self._memory, sequence, start, TO_THE_END):
            raise EngineFailed("this model cannot take back tokens of a sequence")

    def _decode(self, parts: Sequence[Part]) -> None:
        code = llama.llama_decode(self._context, self._call.fill(parts))
        if code == ABORTED:
            raise EngineFailed("the step was interrupted")
        if code != 0:
            raise EngineFailed(f"llama.cpp could not compute the step (code {code}): {complaints()}")
        last = -1
        for part in parts:
            last += len(part.tokens)
            if part.output is not None:
                self._keep_logits(last, self._logits[part.output])

    def _keep_logits(self, place: int, row: Logits) -> None:
        source = llama.llama_get_logits_ith(self._context, place)  # overwritten by the next call
        if source is None:
            raise EngineFailed(f"llama.cpp has no logits for token {place} of the call")
        ctypes.memmove(row.ctypes.data, source, row.nbytes)

    def interrupt(self) -> None:
        self._abort.set()

    def close(self) -> None:
        """Free the model's memory; harmless when repeated."""
        if self._context is not None:
            llama.llama_free(self._context)
            self._context = None
        if self._model is not None:
            if hasattr(self, "tokenizer"):
                self.tokenizer.close()
            llama.llama_model_free(self._model)
            self._model = None
