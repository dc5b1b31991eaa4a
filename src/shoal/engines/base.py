"""What every engine offers. All above asks for capabilities, never for an engine by name.

Engines are synchronous and used by one thread at a time (a tensor engine by ``runs_at_once``), in a process of their
own: a native engine that crashes takes nothing else with it. Only :meth:`LanguageEngine.interrupt` may come from
another thread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from shoal.types import Tensors, TensorSpec, TokenId

Logits = npt.NDArray[np.float32]

RUNS_AT_ONCE: Final = 2  # of a tensor engine with several threads: one has work while another's answers go out


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What the machine grants an engine, decided in one place for all that share it, and its part of its model."""

    threads: int = 1
    kv_tokens: int = 16384  # room in the KV cache, in tokens over all sequences
    max_sequences: int = 64
    shard: int | None = None  # the part of the model's key space it serves; None: all of it


class TensorEngine(ABC):
    """Named arrays in, named arrays out; the first axis of every array is the batch."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batchable: bool = True  # may rows of several requests share a run? If not, the first axis may be anything
    streams: bool = False  # does it answer in parts?
    runs_at_once: int = 1  # runs that may be made beside each other, each in a thread of its caller's

    @abstractmethod
    def run(self, inputs: Tensors) -> Tensors:
        """Raises :class:`~shoal.errors.InvalidRequest` for inputs the model cannot take."""

    def stream(self, inputs: Tensors) -> Generator[Tensors]:
        """The outputs in parts, each with all rows of the inputs. Raises as :meth:`run` does, also between parts."""
        yield self.run(inputs)

    def close(self) -> None:
        return None


class Tokenizer(Protocol):
    """Text to tokens and back, as bytes: one token may be a part of a UTF-8 character."""

    vocab_size: int
    eos_ids: frozenset[TokenId]  # each ends a generation
    chat_template: str | None  # Jinja source
    bos_token: str
    eos_token: str

    def encode(self, text: str, *, special: bool) -> list[TokenId]:
        """``special``: read control tokens such as ``<|im_start|>`` in the text as such (templates want it,
        user text must not), and add the model's beginning-of-sequence token where it has one and the text does
        not start with it."""

    def token_bytes(self, token: TokenId) -> bytes:
        """The bytes a token stands for; empty for control tokens."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a language engine can hold. KV memory is ``num_blocks`` blocks of ``block_size`` tokens; an engine
    whose sequences cannot share memory has one block a sequence, as long as its context."""

    vocab_size: int
    context_length: int  # tokens of one sequence, prompt and answer
    block_size: int
    num_blocks: int
    max_sequences: int  # rows of one step
    max_step_tokens: int  # tokens of one step over all rows
    share_prefixes: bool  # may two sequences hold the same block?
    max_generated: int  # generated tokens of one row; 1 where more would not get the bits they have one at a time


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence's part in a step: ``tokens`` go to the positions from ``start`` on.

    Whatever the blocks held from ``start`` on is stale. ``blocks`` has room for ``start + len(tokens)``. Blocks
    wholly below ``start`` may be shared with other rows and are never written.
    """

    tokens: Sequence[TokenId]
    start: int
    blocks: Sequence[int]
    wants_logits: bool  # of its last token
    #: Are these tokens the model's own, made one at a time? Engines round a lone token otherwise than a prompt's, and
    #: have to do it again in the same way when an answer is taken up elsewhere: ``max_generated`` of them a row.
    generated: bool = False


class LanguageEngine(ABC):
    """Steps a ragged batch of sequences. Everything else (scheduling, sampling, memory) is done above it.

    A row's logits do not depend, to the bit, on the other rows of the step, nor on how a prompt, or what was
    generated after it, was cut into steps: prompts at multiples of 32 tokens, generated tokens as ``max_generated``
    says. It holds for the openvino engine with the Q8_0 weights it converts to, and for the llama engine with Q4_0,
    Q4_1, Q5_0, Q8_0 and IQ4_NL; K-quants on llama.cpp keep it in company of a few rows, F16, BF16 and F32 do not.
    """

    capabilities: Capabilities
    tokenizer: Tokenizer

    @abstractmethod
    def step(self, rows: Sequence[Row]) -> Logits:
        """Compute one step.

        Returns logits of shape (rows that want them, vocab_size), in the order of the rows, valid until the next
        step. Raises :class:`~shoal.errors.EngineFailed`; the KV of the rows' positions is then undefined, all
        else is as before.
        """

    def interrupt(self) -> None:
        """Make a running step raise as soon as it can; harmless when none runs. Callable from any thread."""

    def close(self) -> None:
        return None
