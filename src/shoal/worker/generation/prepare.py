"""From a request to an answer that can be scheduled: everything slow, and everything that can be wrong with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

from shoal.engines.base import LanguageEngine
from shoal.errors import ContextLengthExceeded, EngineFailed, InvalidRequest
from shoal.messages import Generate
from shoal.types import ChatPrompt, Grammar, Prompt, Sampling, TextPrompt, TokenId, TokenPrompt
from shoal.worker.generation.answer import Answer
from shoal.worker.generation.blocks import BlockKey, block_keys
from shoal.worker.generation.constraint import Constraint, GrammarCompiler
from shoal.worker.generation.sequence import TokenSequence

EncodePrompt = Callable[[Prompt], Sequence[TokenId]]

MAX_STOPS = 64
MAX_STOP_LENGTH = 1024  # characters: so much text is held back at most
LONG = 65_536  # characters of a prompt that take a good part of a second to tokenise
PIECE = 16_384  # characters
DENSE = 8  # characters a token that no ordinary text has
MAX_BIAS = 100.0  # OpenAI's bound; what is far beyond leaves no numbers to draw from


class Preparer:
    """Usable from several threads, none of them the engine's."""

    def __init__(self, engine: LanguageEngine, encode_prompt: EncodePrompt, cache_salt: bytes) -> None:
        capabilities, tokenizer = engine.capabilities, engine.tokenizer
        self._capabilities = capabilities
        self._tokenizer = tokenizer
        self._encode_prompt = encode_prompt
        self._cache_salt = cache_salt
        self._grammars = GrammarCompiler(tokenizer, capabilities.vocab_size)
        #: Tokens, prompt and answer, that a sequence can have when it is alone.
        self._room = min(capabilities.context_length, capabilities.num_blocks * capabilities.block_size)
        #: Longer text cannot fit, whatever its tokens are.
        self._max_characters = self._room * max(
            (len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size)), default=1
        )

    def check(self, request: Generate) -> None:
        """What is seen at a glance, before anything is queued or computed. Raises as :meth:`prepare` does."""
        length, param = _size(request.prompt)
        if length > self._max_characters:
            message = f"the prompt has {length} characters; at most {self._max_characters} can fit {self._room} tokens"
            raise ContextLengthExceeded(message, param=param)
        self._check_tokens(request.output, "output")
        self._check_sampling(request.sampling)

    def known(self, grammar: Grammar) -> Constraint | None:
        """The grammar, if it is compiled already."""
        return self._grammars.known(grammar)

    def compile(self, grammar: Grammar, unwanted: threading.Event) -> Constraint:
        """May take seconds. Raises :class:`~shoal.errors.InvalidRequest`, and
        :class:`~shoal.errors.Overloaded` on a machine that is too busy for it."""
        if unwanted.is_set():
            raise EngineFailed("nobody waits for this answer any more")
        return self._grammars.compile(grammar)

    def prepare(self, request: Generate, constraint: Constraint | None, unwanted: threading.Event) -> Answer:
        """Raises :class:`~shoal.errors.InvalidRequest`, or its kind for a prompt that can never fit.

        Stops early when it becomes ``unwanted``. Takes a request that :meth:`check` has seen.
        """
        self._check_pieces(request.prompt, unwanted)
        prompt = tuple(self._encode_prompt(request.prompt))
        if unwanted.is_set():
            raise EngineFailed("nobody waits for this answer any more")
        self._check_prompt(prompt, request.output, _size(request.prompt)[1])
        sampling, room = request.sampling, self._room
        wanted = room if sampling.max_tokens is None else len(prompt) + sampling.max_tokens
        sequence = TokenSequence(
            prompt,
            sampling,
            max_length=min(room, wanted),
            keys=self._keys(prompt, request.tenant),
            constraint=constraint,
            group=request.group,
            priority=request.priority,
        )
        answer = Answer(sequence, self._tokenizer)
        answer.resume(request.output)
        return answer

    def _keys(self, prompt: Sequence[TokenId], tenant: str) -> Sequence[BlockKey]:
        """Tenants share no blocks: how fast an answer begins would tell what others have asked."""
        if not self._capabilities.share_prefixes:
            return ()
        return block_keys(prompt, self._capabilities.block_size, self._cache_salt + tenant.encode())

    def _check_pieces(self, prompt: Prompt, unwanted: threading.Event) -> None:
        """Refuse a long text that cannot fit before all of it is tokenised.

        Its pieces may have more tokens than the whole, a few at each cut, but by far not twice as many.
        """
        size, param = _size(prompt)
        if size <= max(LONG, DENSE * self._room):
            return
        count = 0
        for piece in _pieces(prompt):
            count += len(self._encode_prompt(TextPrompt(piece)))
            if count > 2 * self._room:
                message = f"the prompt has more than {2 * self._room} tokens"
                raise ContextLengthExceeded(f"{message}; prompt and answer together may have {self._room}", param=param)
            if unwanted.is_set():
                return

    def _check_prompt(self, prompt: Sequence[TokenId], output: Sequence[TokenId], param: str) -> None:
        if not prompt:
            raise InvalidRequest("the prompt has no tokens", param=param)
        length, what = len(prompt) + len(output), "the prompt and its output have" if output else "the prompt has"
        if length >= self._room:
            message = f"{what} {length} tokens; prompt and answer together may have {self._room}"
            raise ContextLengthExceeded(message, param=param)
        self._check_tokens(prompt, "prompt")

    def _check_tokens(self, tokens: Sequence[TokenId], param: str) -> None:
        if tokens and (min(tokens) < 0 or max(tokens) >= self._capabilities.vocab_size):
            message = f"the {param} has a token outside the vocabulary of {self._capabilities.vocab_size}"
            raise InvalidRequest(message, param=param)

    def _check_sampling(self, sampling: Sampling) -> None:
        if "" in sampling.stop:
            raise InvalidRequest("a stop string is empty", param="stop")
        if len(sampling.stop) > MAX_STOPS or max(map(len, sampling.stop), default=0) > MAX_STOP_LENGTH:
            message = f"there may be {MAX_STOPS} stop strings of {MAX_STOP_LENGTH} characters"
            raise InvalidRequest(message, param="stop")
        for token, bias in sampling.logit_bias.items():
            if not 0 <= token < self._capabilities.vocab_size:
                message = f"token {token} is outside the vocabulary of {self._capabilities.vocab_size}"
                raise InvalidRequest(message, param="logit_bias")
            if not abs(bias) <= MAX_BIAS:  # also where it is no number
                message = f"the bias of token {token} is {bias}, not between -{MAX_BIAS:g} and {MAX_BIAS:g}"
                raise InvalidRequest(message, param="logit_bias")


def is_long(prompt: Prompt) -> bool:
    return _size(prompt)[0] > LONG


def _pieces(prompt: Prompt) -> Iterator[str]:
    """Of the text that every template keeps: what an assistant thought may be left out."""
    texts: list[str] = []
    if isinstance(prompt, TextPrompt):
        texts = [prompt.text]
    elif isinstance(prompt, ChatPrompt):
        texts = [message.content for message in prompt.messages if message.role == "user"]
    for text in texts:
        yield from (text[at : at + PIECE] for at in range(0, len(text), PIECE))


def _size(prompt: Prompt) -> tuple[int, str]:
    """Characters of text, and the field of a request that it came in."""
    match prompt:
        case ChatPrompt():
            return sum(len(message.content) for message in prompt.messages), "messages"
        case TextPrompt():
            return len(prompt.text), "prompt"
        case TokenPrompt():
            return 0, "prompt"
