"""What a request asks for, as far as that shows before it has run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from shoal.messages import Generate, Infer
from shoal.types import ChatPrompt, TextPrompt

BYTES_PER_TOKEN: Final = 4  # of text: about what the tokenizers of today's models make of English
USUAL_ANSWER: Final = 256  # tokens of an answer without a limit, until some have ended
_USUAL_WEIGHT: Final = 0.05  # of a new answer in the usual one


class Demand(NamedTuple):
    rows: int  # of a tensor request; 0: it generates
    tokens: int  # of prompt and answer; 0: a tensor request
    requests: int = 1

    @property
    def cost(self) -> int:
        """In what the model's requests share: rows, or tokens."""
        return self.rows or self.tokens


def demand(request: Generate | Infer, *, batchable: bool, usual_answer: int) -> Demand:
    """The coordinator has no tokenizer: text counts by its bytes, an answer by its limit, until usage is known."""
    if isinstance(request, Infer):
        return Demand(rows_of(request) if batchable else 1, 0)
    wanted = request.sampling.max_tokens
    return Demand(0, max(1, _prompt_tokens(request) + (usual_answer if wanted is None else wanted)))


def together(demands: Sequence[Demand]) -> Demand:
    """What several requests ask for that are let in as one."""
    return Demand(*map(sum, zip(*demands, strict=True)))


def rows_of(request: Infer) -> int:
    for array in request.inputs.values():
        return (array.shape or (1,))[0] or 1
    return 1


def _prompt_tokens(request: Generate) -> int:
    match request.prompt:
        case ChatPrompt(messages):
            size = sum(len(message.content.encode(errors="replace")) for message in messages)
        case TextPrompt(text):
            size = len(text.encode(errors="replace"))
        case prompt:
            return len(prompt.tokens)
    return -(-size // BYTES_PER_TOKEN)


class UsualAnswer:
    """How long the answers of a model usually are, in tokens."""

    def __init__(self) -> None:
        self._tokens = float(USUAL_ANSWER)

    @property
    def tokens(self) -> int:
        return max(1, round(self._tokens))

    def ended(self, tokens: int) -> None:
        self._tokens += _USUAL_WEIGHT * (tokens - self._tokens)
