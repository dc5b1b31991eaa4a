"""Grammars as masks over the vocabulary, by the ``llguidance`` library.

A constraint's state follows from the tokens it was advanced by, so it can be built again wherever the tokens are
known. It belongs to the engine's thread; grammars are compiled elsewhere, since that may take a second. What would
take longer has shown so in a process of its own.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from shoal.engines.base import Tokenizer
from shoal.errors import InvalidRequest
from shoal.types import Grammar, TokenId
from shoal.worker.generation.sampler import Allowed
from shoal.worker.generation.trial import try_out

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MAX_SOURCE = 262_144  # bytes of a schema or grammar: 128 tools; llguidance itself bounds what it compiles to

#: Of llguidance's own measure. A regular expression such as ``(a{1000}){1000}`` would hold the engine's thread for
#: seconds; these stop it after 0.15 s and let schemas of hundreds of fields pass.
MAX_WORK = {"initial_lexer_fuel": 100_000, "step_lexer_fuel": 20_000}  # before the first token, and for each

MAX_KEPT = 64  # compiled grammars
MAX_KEPT_SIZE = 4 * 2**20  # bytes of one that is kept: those that are asked for again, as tools are, take less


class Constraint:
    """What one answer may still become."""

    def __init__(self, matcher: LLMatcher, vocab_size: int, param: str) -> None:
        """``param``: the field of the request that errors are about."""
        self._matcher = matcher
        self._vocab_size = vocab_size
        self.param = param
        self.complete = False  # nothing but the end may follow

    def allowed(self) -> Allowed:
        """Shape (vocab_size,): may the token come next? Raises :class:`~shoal.errors.InvalidRequest`."""
        packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check("computing what may come next")
        mask = np.zeros(self._vocab_size, np.bool_)  # logits may be padded beyond the tokenizer's vocabulary
        bits = np.unpackbits(packed, bitorder="little", count=min(self._vocab_size, packed.size * 8))
        mask[: bits.size] = bits
        return mask

    def advance(self, token: TokenId) -> None:
        """Raises :class:`~shoal.errors.InvalidRequest` for a token that was not allowed."""
        self._matcher.consume_token(token)
        self._check("reading the answer")
        self.complete = self._matcher.is_stopped()

    def fork(self) -> Constraint:
        """One in the same state, that goes on by itself."""
        other = Constraint(self._matcher.deep_copy(), self._vocab_size, self.param)
        other.complete = self.complete
        return other

    def _check(self, doing: str) -> None:
        if self._matcher.is_error():
            raise InvalidRequest(f"the grammar failed while {doing}: {self._matcher.get_error()}", param=self.param)


class GrammarCompiler:
    """Compiles for one tokenizer, and keeps what was compiled last. Usable from several threads."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        """``vocab_size``: of the engine's logits, at least the tokenizer's."""
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._vocabulary: LLTokenizer | None = None
        self._kept: OrderedDict[bytes, LLMatcher] = OrderedDict()  # the one used last is last; none is advanced
        self._lock = threading.Lock()

    def known(self, grammar: Grammar) -> Constraint | None:
        """At once, if it is kept. A source that is too large never is."""
        if len(grammar.source) > MAX_SOURCE:
            return None
        key = _digest(grammar)
        with self._lock:
            matcher = self._kept.get(key)
            if matcher is None:
                return None
            self._kept.move_to_end(key)
        return Constraint(matcher.deep_copy(), self._vocab_size, grammar.param)

    def compile(self, grammar: Grammar) -> Constraint:
        """Raises :class:`~shoal.errors.InvalidRequest` for one that is too large, wrong or not supported."""
        if len(grammar.source.encode("utf-8", "replace")) > MAX_SOURCE:
            raise InvalidRequest(f"the {grammar.kind} is larger than {MAX_SOURCE} bytes", param=grammar.param)
        llguidance = _import(grammar.param)
        vocabulary = self._for_matching(llguidance, grammar.param)
        source = _source(llguidance, grammar)
        size = try_out(grammar, source, MAX_WORK)
        limits = llguidance.LLParserLimits(**MAX_WORK)
        matcher = llguidance.LLMatcher(vocabulary, source, log_level=0, limits=limits)
        matcher.compute_bitmask()  # the first is the slowest, and shows what is too much
        if matcher.is_error():
            raise InvalidRequest(f"the {grammar.kind} is not usable: {matcher.get_error()}", param=grammar.param)
        if size <= MAX_KEPT_SIZE:
            self._keep(_digest(grammar), matcher.deep_copy())
        return Constraint(matcher, self._vocab_size, grammar.param)

    def _keep(self, key: bytes, matcher: LLMatcher) -> None:
        with self._lock:
            self._kept[key] = matcher
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)

    def _for_matching(self, llguidance: Any, param: str) -> LLTokenizer:
        """The vocabulary as llguidance wants it, made once, when first needed."""
        with self._lock:
            if self._vocabulary is None:
                if not self._tokenizer.eos_ids:
                    raise InvalidRequest("this model has no end-of-sequence token to end a grammar with", param=param)
                wrapper = llguidance.TokenizerWrapper(_Vocabulary(self._tokenizer))
                self._vocabulary = llguidance.LLTokenizer(wrapper, eos_token=sorted(self._tokenizer.eos_ids))
            return self._vocabulary


class _Vocabulary:
    """The attributes that llguidance asks a tokenizer for."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.tokens = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
        self.special_token_ids = [token for token, data in enumerate(self.tokens) if not data]
        self.eos_token_id = min(tokenizer.eos_ids)
        self.bos_token_id = None

    def __call__(self, text: str) -> list[TokenId]:
        if not isinstance(text, str):
            raise TypeError("bytes are not taken")  # it tries, and then keeps to text
        return self._tokenizer.encode(text, special=False)


def _digest(grammar: Grammar) -> bytes:
    return blake2b(f"{grammar.kind}:{grammar.source}".encode("utf-8", "replace"), digest_size=16).digest()


def _import(param: str) -> Any:
    try:
        import llguidance
    except ImportError as exc:
        message = "this server was installed without `llguidance`, which JSON schemas and grammars need"
        raise InvalidRequest(message, param=param) from exc
    return llguidance


def _source(llguidance: Any, grammar: Grammar) -> str:
    match grammar.kind:
        case "json_object":
            return _from_schema(llguidance, {"type": "object"})
        case "json_schema":
            try:
                schema = msgspec.json.decode(grammar.source)
            except (msgspec.DecodeError, RecursionError) as exc:
                raise InvalidRequest(f"the json_schema is not JSON: {exc}", param=grammar.param) from exc
            if not isinstance(schema, dict):
                raise InvalidRequest("the json_schema is not a JSON object", param=grammar.param)
            try:
                return _from_schema(llguidance, schema)
            except ValueError as exc:  # a number beyond 64 bits
                raise InvalidRequest(f"the json_schema is not usable: {exc}", param=grammar.param) from exc
        case "regex":
            return str(llguidance.LLMatcher.grammar_from_regex(grammar.source))
        case "lark":
            return str(llguidance.LLMatcher.grammar_from_lark(grammar.source))


def _from_schema(llguidance: Any, schema: dict[str, Any]) -> str:
    # Compact JSON: where white space is free, small models write it until their tokens run out.
    return str(llguidance.LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": False}))
