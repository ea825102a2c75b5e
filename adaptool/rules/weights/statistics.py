"""What the values of an adapter say, from one pass over its weights: tensor by tensor, and of every LoRA update.

ΔW = s·B@A is never formed. With the Gram matrices G_A = A·Aᵀ and G_B = Bᵀ·B, which are r×r, ‖ΔW‖²_F = s²·Σ(G_A∘G_B),
and σ₁² is the largest eigenvalue of s²·G_B^½·G_A·G_B^½. That squares the condition number, so small singular values
drown: the exact spectrum is ``summary.spectrum``'s, by QR. What is asked for here are the large ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import TYPE_CHECKING

import numpy as np

from adaptool.adapters.factors import Factors
from adaptool.errors import AdaptoolError
from adaptool.rules.weights.moments import Gram, Moments, Pass, Side
from adaptool.summary.contents import LowRankModule
from adaptool.tensors.compute import single_threaded_blas
from adaptool.tensors.dtypes import DType, Floats, bytes_of
from adaptool.tensors.store import Store

if TYPE_CHECKING:
    from adaptool.rules.subject import Subject

Grams = tuple[Gram, Gram]
"""A·Aᵀ and Bᵀ·B of every expert."""

BATCH = 1 << 18
"""Elements of Gram matrices whose eigenvalues are found together."""

TOGETHER = 2048
"""Tensors asked for at once, so that small ones of one shape are looked at together."""

EIGENVALUE_RANK = 256
"""Eigenvalues of larger matrices are not asked for: their price grows with the cube."""


@dataclass(frozen=True, slots=True)
class Update:
    """One LoRA module's ΔW at the scale its config declares; of experts the norm of all and the largest σ₁.

    None: a factor is not finite, is block-diagonal (BD-LoRA), or of a rank too large for Gram matrices (512) or their
    eigenvalues (256). DoRA's rescaling and KaSA's truncation of the base are left out.
    """

    module: str
    a: str
    """The saved key of its lora_A or lora_embedding_A."""
    b: str
    shape: tuple[int, int]
    """(out, in) of one matrix."""
    scale: float
    frobenius: float | None
    """‖ΔW‖_F."""
    spectral: float | None
    """‖ΔW‖₂ = σ₁."""
    stable_rank: float | None
    """‖ΔW‖²_F / σ₁², the mean over experts that do anything: how many directions are as strong as the strongest."""

    @property
    def rms(self) -> float | None:
        """The size of a typical element of ΔW."""
        return None if self.frobenius is None else self.frobenius / (self.shape[0] * self.shape[1]) ** 0.5


@dataclass(frozen=True)
class Statistics:
    """An adapter's values in figures."""

    tensors: Mapping[str, Moments]
    """By saved key: every tensor of a floating type whose elements are bytes or longer."""
    updates: tuple[Update, ...]
    """Every LoRA module with two factors that make a product."""
    twins: tuple[tuple[str, ...], ...]
    """Tensors of one type and shape with the same bytes; constant ones and single numbers are not counted as such."""

    @property
    def not_finite(self) -> dict[str, int]:
        """Tensors with NaN or Inf in them, and how many."""
        return {key: moments.not_finite for key, moments in self.tensors.items() if moments.not_finite}


def measure(subject: Subject) -> Statistics:
    """Read every floating tensor once, in constant memory, the two factors of a LoRA module one after the other."""
    store, reader = subject.store, Pass(subject.store)
    tensors: dict[str, Moments] = {}
    with single_threaded_blas(), np.errstate(all="ignore"):
        updates = tuple(_updates(_modules(subject), store, reader, tensors))
        others = (name for name, info in store.infos.items() if name not in tensors and _readable(info.dtype))
        while some := dict.fromkeys(islice(others, TOGETHER)):
            tensors.update((name, moments) for name, (moments, _) in reader.several(some).items())
    ordered = {name: tensors[name] for name in store if name in tensors}
    return Statistics(ordered, updates, tuple(_twins(store, ordered)))


def _readable(kind: DType) -> bool:
    """The 4- and 6-bit floats lie several to a byte, and have neither NaN nor Inf."""
    return kind.floating and kind.bits >= 8


def _modules(subject: Subject) -> tuple[LowRankModule, ...]:
    """The LoRA modules; none where the config is too broken to tell, which is another rule's finding."""
    if subject.adapter_opened.value is None:
        return ()
    try:
        return subject.low_rank
    except (AdaptoolError, ArithmeticError):
        return ()


def _updates(
    modules: Iterable[LowRankModule], store: Store, reader: Pass, tensors: dict[str, Moments]
) -> Iterator[Update]:
    """Every module's update; the moments of its factors go into ``tensors`` on the way."""
    for batch in _batches(modules, store):
        wanted: dict[str, Side | None] = {}
        for module in batch:
            factors = module.factors[0]
            plain = factors.blocks_a == factors.blocks_b == 1
            for key, rank_first in ((factors.a, True), (factors.b, False)):
                wanted[key] = Side(module.rank, factors.experts, rank_first) if plain else None
        looked = reader.several(wanted)
        tensors.update((key, moments) for key, (moments, _) in looked.items())
        grams = (_with_diagonal(store, m.factors[0], *(looked[key][1] for key in _keys(m))) for m in batch)
        yield from _finished(list(zip(batch, grams, strict=True)))


def _keys(module: LowRankModule) -> tuple[str, str]:
    return module.factors[0].a, module.factors[0].b


def _batches(modules: Iterable[LowRankModule], store: Store) -> Iterator[list[LowRankModule]]:
    """The modules whose values can be read, as many at a time as their Gram matrices allow."""
    infos, batch, held = store.infos, list[LowRankModule](), 0
    for module in modules:
        a, b = _keys(module)
        if _readable(infos[a].dtype) and _readable(infos[b].dtype):
            batch.append(module)
            held += module.factors[0].experts * module.rank**2
        if held >= BATCH or len(batch) >= TOGETHER:
            yield batch
            batch, held = [], 0
    yield batch


def _with_diagonal(store: Store, factors: Factors, of_a: Gram | None, of_b: Gram | None) -> Grams | None:
    """Both Gram matrices, with what KaSA puts between B and A."""
    if of_a is None or of_b is None:
        return None
    if factors.diagonal is None:
        return of_a, of_b
    info = store[factors.diagonal]
    if info.size != factors.rank or not _readable(info.dtype):
        return None
    diagonal = store.array(factors.diagonal).astype(np.float64).reshape(-1)
    return of_a, of_b * np.outer(diagonal, diagonal)


def _finished(batch: Sequence[tuple[LowRankModule, Grams | None]]) -> Iterator[Update]:
    """The updates of modules, those of one rank at a time: a hundred small eigenvalue problems at the price of ten."""
    found: dict[int, Figures] = {}
    known = [(number, grams) for number, (_, grams) in enumerate(batch) if grams is not None]
    for _, group in groupby(sorted(known, key=_ranks), key=_ranks):
        numbers, pairs = zip(*group, strict=True)
        left, right = (np.stack([pair[side] for pair in pairs]) for side in (0, 1))  # (modules, experts, r, r)
        squares = np.maximum(np.einsum("meij,meij->me", left, right), 0)
        found.update(zip(numbers, _figures(squares, _largest_eigenvalues(left, right)), strict=True))
    for number, (module, _) in enumerate(batch):
        scale, factors = module.applied_scale, module.factors[0]
        norm, spectral, stable_rank = found.get(number, (None, None, None))
        yield Update(
            module.name, factors.a, factors.b, module.shape, scale, None if norm is None else abs(scale) * norm,
            None if spectral is None else abs(scale) * spectral, stable_rank,
        )  # fmt: skip


def _ranks(numbered: tuple[int, Grams]) -> tuple[int, ...]:
    return numbered[1][0].shape


def _largest_eigenvalues(left: Floats, right: Floats) -> Floats:
    """σ₁² of every B@A, from stacks of A·Aᵀ and Bᵀ·B; NaN where they overflowed or are too large."""
    finite = np.isfinite(left).all((-2, -1)) & np.isfinite(right).all((-2, -1))
    result = np.full(finite.shape, np.nan)
    if finite.any() and left.shape[-1] <= EIGENVALUE_RANK:
        values, vectors = np.linalg.eigh(right[finite])
        half = vectors * np.sqrt(np.maximum(values, 0))[..., None, :]
        result[finite] = np.maximum(np.linalg.eigvalsh(half.swapaxes(-1, -2) @ left[finite] @ half)[..., -1], 0)
    return result


Figures = tuple[float, float | None, float | None]
"""‖BA‖_F over all experts, the largest σ₁, and the mean stable rank of those that are not zero."""


def _figures(energies: Floats, strongest: Floats) -> Iterator[Figures]:
    """Every module's, from (modules, experts) of ‖BA‖²_F and σ₁²."""
    norms = np.sqrt(energies.sum(1))
    norms[np.isnan(norms)] = np.inf
    acting = strongest > 0
    counts = acting.sum(1)
    ranks = np.divide(energies, strongest, out=np.zeros_like(energies), where=acting).sum(1) / np.maximum(counts, 1)
    known, spectral = np.isfinite(strongest).all(1), np.sqrt(strongest.max(1))
    columns = (column.tolist() for column in (known, norms, spectral, ranks, counts))
    for finite, norm, largest, rank, count in zip(*columns, strict=True):
        yield norm, largest if finite else None, rank if finite and count else None


def _twins(store: Store, tensors: Mapping[str, Moments]) -> Iterator[tuple[str, ...]]:
    """Tensors with the same bytes: those whose figures agree are read again, and their digests compared."""
    infos, alike = store.infos, dict[tuple[object, ...], list[str]]()
    for name, moments in tensors.items():
        if moments.size > 1 and moments.constant is None:
            info = infos[name]
            kind = info.dtype.name, info.shape, moments.smallest, moments.largest, moments.zeros
            alike.setdefault(kind, []).append(name)
    for names in alike.values():
        if len(names) > 1:
            same: dict[bytes, list[str]] = {}
            for name in names:
                same.setdefault(_digest(store, name), []).append(name)
            yield from (tuple(group) for group in same.values() if len(group) > 1)


def _digest(store: Store, name: str) -> bytes:
    digest = hashlib.sha256()
    for start, stop in store.spans(name, 1 << 20):
        digest.update(bytes_of(store.read(name, start, stop)))
    return digest.digest()
