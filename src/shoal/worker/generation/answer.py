"""The client's side of a sequence: what has become of its tokens, as chunks."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.engines.base import Tokenizer
from shoal.errors import InvalidRequest
from shoal.messages import Chunk
from shoal.types import FinishReason, TokenId, TokenLogprob, Usage
from shoal.worker.generation.detokenizer import Detokenizer
from shoal.worker.generation.outbox import Outbox
from shoal.worker.generation.progress import Progress
from shoal.worker.generation.sampler import Sampled
from shoal.worker.generation.sequence import TokenSequence


class Answer:
    def __init__(self, sequence: TokenSequence, tokenizer: Tokenizer) -> None:
        self.sequence = sequence
        self.outbox = Outbox()
        self.progress: Progress | None = None  # as its trace will show it
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(sequence.sampling.stop)

    def resume(self, output: Sequence[TokenId]) -> None:
        """Begin behind these tokens, of which the client has all that came of them.

        Raises :class:`~shoal.errors.InvalidRequest` where a grammar forbids one, or the answer ends with one.
        """
        sequence = self.sequence
        for token in output:
            if sequence.constraint is not None:
                sequence.constraint.advance(token)
            reason = sequence.append(token, self._tokenizer.eos_ids)
            self._feed(token, reason)
            if reason is not None or self._detokenizer.stopped:
                raise InvalidRequest("the answer has ended within its output: nothing can follow", param="output")

    def add(self, sampled: Sampled, reason: FinishReason | None) -> bool:
        """Put the next token, which ends the answer if it has a ``reason``; says whether the answer ended.

        A token that ends the sequence is generated and counted like any other (as in vLLM) but is not text.
        """
        text = self._feed(sampled.token, reason)
        if reason is not None:
            text += self._detokenizer.finish()
        if self._detokenizer.stopped:
            reason = FinishReason.STOP
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

    def _feed(self, token: TokenId, reason: FinishReason | None) -> str:
        ends_text = reason is FinishReason.STOP and token in self._tokenizer.eos_ids
        return "" if ends_text else self._detokenizer.feed(self._tokenizer.token_bytes(token))

    def _usage(self) -> Usage:
        sequence = self.sequence
        return Usage(len(sequence.prompt), len(sequence.output), sequence.cached or 0)

    def _logprobs(self, sampled: Sampled) -> tuple[TokenLogprob, ...]:
        if sampled.logprob is None:
            return ()
        text = self._tokenizer.token_bytes
        top = tuple((token, text(token), logprob) for token, logprob in sampled.top)
        return (TokenLogprob(sampled.token, text(sampled.token), sampled.logprob, top),)
