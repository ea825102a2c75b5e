"""Forward parity of a GGUF: the file in llama.cpp against the model it was made from, on prompts.

Both are fed the reference's token ids, so what differs is the weights and the graph; how the file itself would have
cut the prompts is compared apart, being the commonest defect of a conversion and the one that hides the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adaptool.gguf.recipe import FILE_TYPES
from adaptool.parity.agreement import (
    EmbeddingAgreement,
    ForwardAgreement,
    compare_distributions,
    compare_embeddings,
)
from adaptool.parity.forward import PROMPTS
from adaptool.parity.llama_cpp import Pooling
from adaptool.parity.reference import Reference, TransformersReference
from adaptool.parity.runtime import Runtime, open_runtime
from adaptool.tensors.dtypes import Floats

RANDOM_TOKENS = 24
"""Per prompt, where no tokenizer is found."""


@dataclass(frozen=True, slots=True)
class Bound:
    """How far a faithful file of some type may be from its model."""

    top1_agreement: float
    mean_kl: float
    """Nats per position."""
    min_cosine: float
    """Of embeddings."""


PLAIN = Bound(0.99, 0.005, 0.999)
EIGHT_BITS = Bound(0.97, 0.02, 0.999)
SIX_BITS = Bound(0.90, 0.06, 0.998)
FIVE_BITS = Bound(0.80, 0.2, 0.99)
MIXED_FOUR_BITS = Bound(0.80, 0.2, 0.98)
FOUR_BITS = Bound(0.60, 0.8, 0.94)
LOOSE = Bound(0.55, 1.0, 0.92)
"""Three bits and fewer, and types that nothing was measured of."""

BOUNDS = {
    **dict.fromkeys(("F32", "F16", "BF16"), PLAIN),
    "Q8_0": EIGHT_BITS,
    "Q6_K": SIX_BITS,
    **dict.fromkeys(("Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0"), FIVE_BITS),
    **dict.fromkeys(("Q4_K_M", "Q4_K_S"), MIXED_FOUR_BITS),
    **dict.fromkeys(("Q4_0", "Q4_1", "IQ4_NL", "IQ4_XS", "MXFP4_MOE"), FOUR_BITS),
}
"""By file type, about twice what faithful files of SmolLM2-135M and all-MiniLM-L6 measured (mean KL, top-1, cosine):

    F32 1e-6 1.00 · F16 4e-6 1.00 · BF16 1.5e-4 1.00 · Q8_0 0.006 1.00 0.9996 · Q6_K 0.032 0.95 0.9992
    Q5_K_M 0.095 0.89 0.995 · Q4_K_M 0.098 0.91 0.992 · IQ4_XS 0.28 0.75 · Q4_0 0.45 0.73 0.966
    Q3_K_M 0.32 0.78 0.976 · Q2_K 0.58 0.72 0.955

Models this small suffer most; a wrong permutation measures several nats in any type. Of Q8_0's 0.006, 0.002 are the
weights'; the rest is the runtime, which rounds activations to 8 bits before it multiplies them with quantised weights
(to bf16 with BF16 ones): the same weights in F32 measured 0.002, and a file whose blocks the model was dequantised
from 0.004. No conversion can do better.
"""


@dataclass(frozen=True, slots=True)
class TokenMismatch:
    """A prompt that the file's tokenizer cuts otherwise than the reference's."""

    text: str
    expected: tuple[int, ...]
    actual: tuple[int, ...]

    @property
    def position(self) -> int:
        """The first token that differs."""
        pairs = enumerate(zip(self.expected, self.actual, strict=False))
        return next((at for at, (one, other) in pairs if one != other), min(len(self.expected), len(self.actual)))


@dataclass(frozen=True, slots=True)
class GgufForward:
    """What running a GGUF beside its model showed."""

    file_type: str
    """llama.cpp's name for the mixture, "Q4_K_M"; "unknown" where the file does not say."""
    bound: Bound
    distributions: ForwardAgreement | None
    """None for an encoder."""
    embeddings: EmbeddingAgreement | None
    """Of an encoder alone."""
    tokenization: tuple[TokenMismatch, ...]
    vocabularies: tuple[int, int]
    """The reference's and the file's size; padding rows may be in one alone, and the tokens of both are compared."""
    random_tokens: bool
    """The reference has no tokenizer, so random token ids stood in for prompts."""

    @property
    def agrees(self) -> bool:
        """Whether the file cuts text as its model does and answers like it, within its type's bound."""
        return not self.tokenization and self._near

    @property
    def _near(self) -> bool:
        if self.distributions is None:
            return self.embeddings is not None and self.embeddings.min_cosine >= self.bound.min_cosine
        top1 = self.distributions.top1_agreement
        return self.distributions.mean_kl <= self.bound.mean_kl and (top1 is None or top1 >= self.bound.top1_agreement)


def forward_gguf(
    gguf: Path,
    reference: Path | Reference,
    prompts: Sequence[str] = (),
    *,
    lora: Sequence[tuple[Path, float]] = (),
    threads: int | None = None,
) -> GgufForward:
    """Run a GGUF (with GGUF adapters, if any) and the model it should answer like on ``prompts``, and compare.

    ``reference`` is the model's folder, run by transformers, or anything that gives log-probabilities. A few built-in
    prompts serve where none are given; long ones are cut to the runtime's context. Raises what ``open_runtime`` does.
    """
    model = TransformersReference(reference) if isinstance(reference, Path) else reference
    with open_runtime(gguf, lora=lora, threads=threads) as runtime:
        texts = prompts or PROMPTS
        cut = [model.tokenize(text) for text in texts]
        known = [ids for ids in cut if ids is not None]
        tokens = [ids[: runtime.context] for ids in known if ids] or _random_tokens(len(texts), model.vocabulary)
        label = _file_type(runtime.file_type)
        return GgufForward(
            file_type=label,
            bound=bound_of(label),
            distributions=None if runtime.encoder else _distributions(runtime, model, tokens),
            embeddings=_embeddings(runtime, model, tokens) if runtime.encoder else None,
            tokenization=tuple(_mismatches(runtime, texts, known)) if known else (),
            vocabularies=(model.vocabulary, runtime.vocabulary),
            random_tokens=not known,
        )


def bound_of(file_type: str) -> Bound:
    """The bound of a file type by llama.cpp's name; the loosest for one that is not known."""
    return BOUNDS.get(file_type, LOOSE)


def _file_type(number: int) -> str:
    return next((label for label, kind in FILE_TYPES.items() if kind.number == number), "unknown")


def _distributions(runtime: Runtime, model: Reference, tokens: Sequence[Sequence[int]]) -> ForwardAgreement:
    width = min(runtime.vocabulary, model.vocabulary)
    expected = np.concatenate([_among(model.log_probabilities(ids), width) for ids in tokens])
    actual = np.concatenate([_among(runtime.log_probabilities(ids), width) for ids in tokens])
    following = [token if token < width else -1 for ids in tokens for token in (*ids[1:], -1)]
    return compare_distributions(expected, actual, following)


def _among(values: Floats, width: int) -> Floats:
    """The distributions over the first ``width`` tokens alone."""
    if values.shape[1] == width:
        return values
    kept = values[:, :width]
    return kept - np.log(np.exp(kept, dtype=np.float64).sum(-1, keepdims=True)).astype(np.float32)


def _embeddings(runtime: Runtime, model: Reference, tokens: Sequence[Sequence[int]]) -> EmbeddingAgreement:
    expected = [_pooled(model.hidden_states(ids), runtime.pooling) for ids in tokens]
    return compare_embeddings(expected, [runtime.embedding(ids) for ids in tokens])


def _pooled(states: Floats, pooling: Pooling) -> Floats:
    if pooling == "none":
        return states
    pooled: Floats = {"mean": states.mean(0), "cls": states[0], "last": states[-1]}[pooling]
    return pooled


def _mismatches(runtime: Runtime, texts: Sequence[str], known: Sequence[Sequence[int]]) -> Iterator[TokenMismatch]:
    for text, expected in zip(texts, known, strict=True):
        actual = runtime.tokenize(text)
        if list(expected) != actual:
            yield TokenMismatch(text, tuple(expected), tuple(actual))


def _random_tokens(count: int, vocabulary: int) -> list[list[int]]:
    rows = np.random.default_rng(0).integers(0, vocabulary, (count, RANDOM_TOKENS))
    return [[int(token) for token in row] for row in rows]
