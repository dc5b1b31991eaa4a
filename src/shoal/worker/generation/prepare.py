"""From a request to a sequence that can be scheduled: everything slow, and everything that can be wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shoal.engines.base import LanguageEngine
from shoal.errors import ContextLengthExceeded, InvalidRequest
from shoal.messages import Generate
from shoal.types import ChatPrompt, Prompt, Sampling, TokenId
from shoal.worker.generation.blocks import BlockKey, block_keys
from shoal.worker.generation.constraint import GrammarCompiler
from shoal.worker.generation.sequence import TokenSequence

EncodePrompt = Callable[[Prompt], Sequence[TokenId]]


class Preparer:
    """Usable from several threads, none of them the engine's."""

    def __init__(self, engine: LanguageEngine, encode_prompt: EncodePrompt, cache_salt: bytes) -> None:
        capabilities = engine.capabilities
        self._capabilities = capabilities
        self._encode_prompt = encode_prompt
        self._cache_salt = cache_salt
        self._grammars = GrammarCompiler(engine.tokenizer, capabilities.vocab_size)
        #: Tokens, prompt and answer, that a sequence can have when it is alone.
        self._room = min(capabilities.context_length, capabilities.num_blocks * capabilities.block_size)

    def prepare(self, request: Generate) -> TokenSequence:
        """Raises :class:`~shoal.errors.InvalidRequest`, or its kind for a prompt that can never fit."""
        prompt = tuple(self._encode_prompt(request.prompt))
        self._check_prompt(prompt, "messages" if isinstance(request.prompt, ChatPrompt) else "prompt")
        self._check_sampling(request.sampling)
        sampling, room = request.sampling, self._room
        wanted = room if sampling.max_tokens is None else len(prompt) + sampling.max_tokens
        return TokenSequence(
            prompt,
            sampling,
            max_length=min(room, wanted),
            keys=self._keys(prompt),
            constraint=None if request.grammar is None else self._grammars.compile(request.grammar),
        )

    def _keys(self, prompt: Sequence[TokenId]) -> Sequence[BlockKey]:
        if not self._capabilities.share_prefixes:
            return ()
        return block_keys(prompt, self._capabilities.block_size, self._cache_salt)

    def _check_prompt(self, prompt: Sequence[TokenId], param: str) -> None:
        if not prompt:
            raise InvalidRequest("the prompt has no tokens", param=param)
        if len(prompt) >= self._room:
            message = f"the prompt has {len(prompt)} tokens; prompt and answer together may have {self._room}"
            raise ContextLengthExceeded(message, param=param)
        if min(prompt) < 0 or max(prompt) >= self._capabilities.vocab_size:
            message = f"the prompt has a token outside the vocabulary of {self._capabilities.vocab_size}"
            raise InvalidRequest(message, param=param)

    def _check_sampling(self, sampling: Sampling) -> None:
        if "" in sampling.stop:
            raise InvalidRequest("a stop string is empty", param="stop")
        for token in sampling.logit_bias:
            if not 0 <= token < self._capabilities.vocab_size:
                message = f"token {token} is outside the vocabulary of {self._capabilities.vocab_size}"
                raise InvalidRequest(message, param="logit_bias")
