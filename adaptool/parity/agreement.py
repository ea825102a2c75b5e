"""How far one model's next-token distributions, or embeddings, are from another's: plain arithmetic on arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adaptool.errors import MismatchError
from adaptool.tensors.dtypes import Floats

MARGIN = 0.05
"""Positions where the reference's two best tokens are closer than this in probability say nothing about top-1."""


@dataclass(frozen=True, slots=True)
class ForwardAgreement:
    """Two models' next-token distributions over the same tokens; divergences in nats, over the full vocabulary."""

    positions: int
    unclear: int
    """Positions left out of top-1: the reference's best token leads by less than ``MARGIN``."""
    top1_agreement: float | None
    """Share of the other positions where both name the same best token; None where there is no such position."""
    mean_kl: float
    """KL(reference ‖ candidate), the mean over positions."""
    max_kl: float
    perplexity_ratio: float | None
    """The candidate's perplexity on the text over the reference's; None where no next token is known."""


@dataclass(frozen=True, slots=True)
class EmbeddingAgreement:
    """Two models' embeddings of the same texts."""

    texts: int
    min_cosine: float
    """Of the text where the two point farthest apart."""
    max_abs: float
    """The largest difference of a component."""


def compare_distributions(
    reference: Floats, candidate: Floats, next_tokens: Sequence[int] | None = None
) -> ForwardAgreement:
    """Compare log-probabilities, both (positions, vocabulary), position by position.

    ``next_tokens`` are those that came after each position in the text, −1 where none did. Raises MismatchError for
    arrays of different shapes.
    """
    if reference.shape != candidate.shape or reference.ndim != 2 or not len(reference):
        raise MismatchError(
            f"distributions of {list(candidate.shape)} cannot be compared with {list(reference.shape)}",
            hint="both must be (positions, vocabulary), of the same tokens and the same vocabulary",
        )
    divergences = np.array([_divergence(*pair) for pair in zip(reference, candidate, strict=True)])
    best_two = np.exp(np.partition(reference, -2, axis=-1)[:, -2:].astype(np.float64))
    clear = best_two[:, 1] - best_two[:, 0] >= MARGIN
    same = reference.argmax(-1) == candidate.argmax(-1)
    return ForwardAgreement(
        positions=len(reference),
        unclear=int(np.count_nonzero(~clear)),
        top1_agreement=float(same[clear].mean()) if clear.any() else None,
        mean_kl=float(divergences.mean()),
        max_kl=float(divergences.max()),
        perplexity_ratio=_perplexity_ratio(reference, candidate, next_tokens or ()),
    )


def compare_embeddings(reference: Sequence[Floats], candidate: Sequence[Floats]) -> EmbeddingAgreement:
    """Compare the embeddings of texts: each (width,) or (positions, width), then the worst position counts."""
    if not reference or [values.shape for values in reference] != [values.shape for values in candidate]:
        raise MismatchError("embeddings of different shapes cannot be compared")
    pairs = list(zip(reference, candidate, strict=True))
    return EmbeddingAgreement(
        texts=len(reference),
        min_cosine=min(float(_cosines(*pair).min()) for pair in pairs),
        max_abs=max(float(np.abs(one - other).max()) for one, other in pairs),
    )


def _divergence(reference: Floats, candidate: Floats) -> float:
    """KL of one position; a token the reference rules out adds nothing, whatever the candidate says of it."""
    p, q = reference.astype(np.float64), candidate.astype(np.float64)
    possible = np.isfinite(p)
    return max(0.0, float(np.exp(p[possible]) @ (p[possible] - q[possible])))


def _perplexity_ratio(reference: Floats, candidate: Floats, next_tokens: Sequence[int]) -> float | None:
    places = [(position, token) for position, token in enumerate(next_tokens) if token >= 0]
    if not places:
        return None
    rows, columns = np.array(places).T
    return math.exp(float((reference[rows, columns] - candidate[rows, columns]).mean(dtype=np.float64)))


def _cosines(one: Floats, other: Floats) -> Floats:
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return np.atleast_1d((one * other).sum(-1) / np.maximum(lengths, np.finfo(np.float32).tiny))
