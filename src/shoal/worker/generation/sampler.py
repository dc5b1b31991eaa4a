"""From logits to tokens: penalties, temperature, cut-offs and one reproducible draw. Pure numpy.

The order is vLLM's: grammar, bias, penalties, temperature, min-p, top-k, top-p, draw. Penalties are computed from
the tokens alone and a draw from (seed, position) alone: there is no state, so a continuation anywhere is the same.
Wherever values tie, the lowest token id wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from shoal.engines.base import Logits
from shoal.types import Sampling, TokenId

Scores = npt.NDArray[np.float64]  # one a token
Allowed = npt.NDArray[np.bool_]  # one a token
Indices = npt.NDArray[np.intp]

RUN = 256  # tokens of a vocabulary that are looked at as one


@dataclass(frozen=True, slots=True)
class Draw:
    """What one row of logits is sampled with."""

    sampling: Sampling
    prompt: Sequence[TokenId]
    output: Sequence[TokenId]
    allowed: Allowed | None = None  # by a grammar; None: everything


@dataclass(frozen=True, slots=True)
class Sampled:
    token: TokenId
    logprob: float | None = None  # natural log, under the unmodified logits
    top: tuple[tuple[TokenId, float], ...] = ()  # the likeliest tokens with theirs, best first


def sample(logits: Logits, draws: Sequence[Draw]) -> list[Sampled | None]:
    """A token for each row; None for a row with a NaN, or where no token is possible. Changes no logits."""
    best = logits.argmax(axis=1)  # the first NaN, where there is one
    finite = np.isfinite(logits[np.arange(len(draws)), best])
    return [
        _sample_row(row, int(token), draw) if good else None
        for row, token, good, draw in zip(logits, best, finite, draws, strict=True)
    ]


def uniform(seed: int, position: int) -> float:
    """The random number in [0, 1) with which the token at ``position`` is drawn, the same on every platform."""
    digest = blake2b(f"{seed}:{position}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


def _sample_row(logits: Logits, best: TokenId, draw: Draw) -> Sampled | None:
    token = _choose(logits, best, draw)
    if token is None or draw.sampling.logprobs is None:
        return token if token is None else Sampled(token)
    return _with_logprobs(logits, token, draw.sampling.logprobs)


def _choose(logits: Logits, best: TokenId, draw: Draw) -> TokenId | None:
    sampling = draw.sampling
    modified = draw.allowed is not None or bool(sampling.logit_bias) or _has_penalties(sampling)
    if sampling.temperature == 0 and not modified:
        return best
    scores = logits.astype(np.float64)
    if modified:
        _modify(scores, draw)
        best = int(scores.argmax())
        if not np.isfinite(scores[best]):
            return None
    if sampling.temperature == 0:
        return best
    position = len(draw.prompt) + len(draw.output)
    scores -= scores[best]
    return _draw(scores, sampling, uniform(sampling.seed or 0, position))


def _has_penalties(sampling: Sampling) -> bool:
    return sampling.repetition_penalty != 1 or sampling.presence_penalty != 0 or sampling.frequency_penalty != 0


def _modify(scores: Scores, draw: Draw) -> None:
    sampling = draw.sampling
    if draw.allowed is not None:
        scores[~draw.allowed] = -np.inf
    for token, bias in sampling.logit_bias.items():
        scores[token] += bias
    if not _has_penalties(sampling):
        return
    said, counts = np.unique(np.array(draw.output, np.int64), return_counts=True)
    seen = np.union1d(np.array(draw.prompt, np.int64), said)
    factor = sampling.repetition_penalty
    with np.errstate(over="ignore"):  # a score that no number can hold cannot be chosen
        scores[seen] = np.where(scores[seen] > 0, scores[seen] / factor, scores[seen] * factor)
    scores[said] -= sampling.frequency_penalty * counts + sampling.presence_penalty


def _draw(scores: Scores, sampling: Sampling, at: float) -> TokenId:
    """Inverse of the distribution function at ``at``, the tokens in the order of their ids. Spends ``scores``, of which
    the greatest is 0."""
    weights = scores  # in place: memory for a whole vocabulary costs more than the arithmetic
    if sampling.temperature != 1:
        with np.errstate(over="ignore"):  # a tiny temperature makes a weight zero, as it should
            weights /= sampling.temperature
    np.exp(weights, out=weights)
    tokens: Indices | None = None
    for cut in _cuts(sampling):
        kept = cut(weights)
        kept.sort()
        tokens = kept if tokens is None else tokens[kept]
        weights = weights[kept]
    index = _invert(weights, at)
    return index if tokens is None else int(tokens[index])


def _cuts(sampling: Sampling) -> Iterator[Callable[[Scores], Indices]]:
    """Each says which of the weights stay."""
    if sampling.min_p > 0:
        yield lambda weights: np.flatnonzero(weights >= sampling.min_p * weights.max())
    if sampling.top_k > 0:
        yield lambda weights: _largest(weights, min(sampling.top_k, len(weights)))
    if sampling.top_p < 1:
        yield lambda weights: _nucleus(weights, sampling.top_p)


def _nucleus(weights: Scores, mass: float) -> Indices:
    """Indices of the fewest, greatest weights that hold ``mass`` of the whole."""
    total = weights.sum()
    # All that lie below this bound hold less than 1 - mass together, so the nucleus lies above it: little to sort.
    candidates = np.flatnonzero(weights >= total * (1 - mass) / len(weights))
    order = candidates[np.argsort(-weights[candidates], kind="stable")]
    enough = int(np.searchsorted(weights[order].cumsum(), mass * total))
    return order[: enough + 1]


def _largest(values: npt.NDArray[np.floating], count: int) -> Indices:
    """Indices of the ``count`` greatest values, best first."""
    if count <= 0:
        return np.empty(0, np.intp)
    bound = _bound(values, count)
    candidates = np.flatnonzero(values >= bound)  # in order of index, and the sort is stable: ties go to the lowest
    return candidates[np.argsort(-values[candidates], kind="stable")][:count]


def _bound(values: npt.NDArray[np.floating], count: int) -> np.floating:
    """No more than the greatest ``count`` of the values, and close to it: to order all of a vocabulary takes long."""
    # The maxima of runs are values themselves, so that at least ``count`` of all are as great as that many of them.
    maxima = np.maximum.reduceat(values, np.arange(0, len(values), RUN))
    few = maxima if count <= len(maxima) else values
    bound: np.floating = np.partition(few, -count)[-count]
    return bound


def _invert(weights: Scores, at: float) -> int:
    # In two levels: summing runs and then one run is a tenth of the work of summing up a whole vocabulary.
    ends = np.add.reduceat(weights, np.arange(0, len(weights), RUN)).cumsum()
    target = min(at * ends[-1], np.nextafter(ends[-1], 0))
    index = int(np.searchsorted(ends, target, side="right"))
    below = ends[index - 1] if index else 0.0
    inside = weights[index * RUN : (index + 1) * RUN].cumsum()
    # Rounding may leave the run's own sum a hair below its end; a token without weight is never taken.
    offset = int(np.searchsorted(inside, min(target - below, np.nextafter(inside[-1], 0)), side="right"))
    return index * RUN + offset


def _with_logprobs(logits: Logits, token: TokenId, count: int) -> Sampled:
    scores = logits.astype(np.float64)
    scores -= scores.max()
    scores -= np.log(np.exp(scores).sum())
    top = _largest(logits, min(count, len(logits)))
    return Sampled(token, float(scores[token]), tuple((int(index), float(scores[index])) for index in top))
