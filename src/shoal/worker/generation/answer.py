"""The client's side of a sequence: what has become of its tokens, as chunks."""

from __future__ import annotations

from shoal.engines.base import Tokenizer
from shoal.messages import Chunk
from shoal.types import FinishReason, TokenLogprob, Usage
from shoal.worker.generation.detokenizer import Detokenizer
from shoal.worker.generation.outbox import Outbox
from shoal.worker.generation.sampler import Sampled
from shoal.worker.generation.sequence import TokenSequence


class Answer:
    def __init__(self, sequence: TokenSequence, tokenizer: Tokenizer) -> None:
        self.outbox = Outbox()
        self._sequence = sequence
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(sequence.sampling.stop)

    def add(self, sampled: Sampled, reason: FinishReason | None) -> bool:
        """Put the next token, which ends the answer if it has a ``reason``; says whether the answer ended.

        A token that ends the sequence is generated and counted like any other (as in vLLM) but is not text.
        """
        ends_text = reason is FinishReason.STOP and sampled.token in self._tokenizer.eos_ids
        text = "" if ends_text else self._detokenizer.feed(self._tokenizer.token_bytes(sampled.token))
        if self._detokenizer.stopped:
            reason = FinishReason.STOP
        if reason is not None:
            text += self._detokenizer.finish()
        self.outbox.put(
            Chunk(
                text=text,
                tokens=(sampled.token,),
                logprobs=self._logprobs(sampled),
                finish_reason=reason,
                usage=None if reason is None else self._usage(),
            )
        )
        return reason is not None

    def _usage(self) -> Usage:
        sequence = self._sequence
        return Usage(len(sequence.prompt), len(sequence.output), sequence.cached or 0)

    def _logprobs(self, sampled: Sampled) -> tuple[TokenLogprob, ...]:
        if sampled.logprob is None:
            return ()
        text = self._tokenizer.token_bytes
        top = tuple((token, text(token), logprob) for token, logprob in sampled.top)
        return (TokenLogprob(sampled.token, text(sampled.token), sampled.logprob, top),)
