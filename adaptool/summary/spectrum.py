"""The spectrum of every update ΔW = s·B@A, exactly, from its factors: ΔW is never formed.

With B = Q₁R₁ and Aᵀ = Q₂R₂, ΔW = Q₁(s·R₁R₂ᵀ)Q₂ᵀ, so the singular values of ΔW are those of an r×r matrix. All in
float64. A convolution is taken as its (out, in·kernel) matrix; experts one by one; DoRA's rescaling is left out (the
figures are of its low-rank part, and its magnitudes are described beside them).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from adaptool.adapters.adapter import Adapter
from adaptool.adapters.factors import Factors
from adaptool.summary.contents import LowRankModule, low_rank_modules
from adaptool.tensors.dtypes import Floats, widen
from adaptool.tensors.store import Store

State = Literal["trained", "zero", "not_finite"]
"""zero: B (or A) is all zeros, as before training. not_finite: a factor holds NaN or Inf, and nothing else is told."""


@dataclass(frozen=True, slots=True)
class MatrixSpectrum:
    """Singular values of one ΔW, largest first, and what follows from them."""

    state: State
    singular_values: tuple[float, ...]
    frobenius: float | None
    """‖ΔW‖_F = √Σσ²."""
    spectral: float | None
    """‖ΔW‖₂ = σ₁."""
    stable_rank: float | None
    """‖ΔW‖_F² / ‖ΔW‖₂² (Rudelson, Vershynin 2007): how many directions as strong as the strongest."""
    effective_rank: float | None
    """exp(−Σ p ln p), p = σ/Σσ (Roy, Vetterli 2007): 1 for a single direction, r where all are equally strong."""


@dataclass(frozen=True, slots=True)
class Magnitudes:
    """The range of a DoRA magnitude vector."""

    smallest: float
    mean: float
    largest: float


@dataclass(frozen=True, slots=True)
class ModuleSpectrum:
    """One module's update. Over several experts: the norm of all, the largest σ₁, the mean of the ranks."""

    module: str
    rank: int
    scale: float
    state: State
    frobenius: float | None
    spectral: float | None
    stable_rank: float | None
    effective_rank: float | None
    matrices: tuple[MatrixSpectrum, ...]
    """One, or one per expert."""
    magnitudes: Magnitudes | None = None
    relative: float | None = None
    """‖ΔW‖_F / ‖W‖_F, where a base was given."""


def module_spectra(adapter: Adapter) -> Iterator[ModuleSpectrum]:
    """The spectrum of every LoRA module; a module in which a factor is missing has none."""
    for module in low_rank_modules(adapter):
        yield module_spectrum(module, adapter.store)


def module_spectrum(module: LowRankModule, store: Store) -> ModuleSpectrum:
    """The spectrum of one module's ΔW at the scale its config declares."""
    scale = module.applied_scale
    matrices = tuple(matrix_spectrum(factors, scale) for factors in module.factors)
    finite = [matrix for matrix in matrices if matrix.frobenius is not None]
    magnitudes = None if module.magnitude is None else _magnitudes(store, module.magnitude)
    if len(finite) < len(matrices):
        unknown = (None, None, None, None)
        return ModuleSpectrum(module.name, module.rank, scale, "not_finite", *unknown, matrices, magnitudes)
    trained = [matrix for matrix in matrices if matrix.state == "trained"]
    return ModuleSpectrum(
        module.name, module.rank, scale, "trained" if trained else "zero",
        float(np.sqrt(sum(m.frobenius**2 for m in finite if m.frobenius is not None))),
        max(m.spectral for m in finite if m.spectral is not None),
        _mean(m.stable_rank for m in trained), _mean(m.effective_rank for m in trained), matrices, magnitudes,
    )  # fmt: skip


def matrix_spectrum(factors: Factors, scale: float) -> MatrixSpectrum:
    """The spectrum of ``scale·left@right``."""
    left, right = factors.load("float64")
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return MatrixSpectrum("not_finite", (), None, None, None, None)
    values = abs(scale) * product_singular_values(left, right)
    largest, total = float(values.max(initial=0.0)), float(values.sum())
    if not (left.any() and right.any()) or total == 0:
        return MatrixSpectrum("zero", tuple(map(float, values)), 0.0, 0.0, None, None)
    energy, shares = float(values @ values), values[values > 0] / total
    return MatrixSpectrum(
        "trained", tuple(map(float, values)), energy**0.5, largest, energy / largest**2,
        float(np.exp(-(shares * np.log(shares)).sum())),
    )  # fmt: skip


def product_singular_values(left: Floats, right: Floats) -> NDArray[np.float64]:
    """Singular values of left (m, r) @ right (r, n) by two thin QRs and an SVD no larger than r×r."""
    outer: Floats = np.linalg.qr(left, mode="r")  # type: ignore[assignment]  # numpy types every mode as a pair
    inner: Floats = np.linalg.qr(right.T, mode="r")  # type: ignore[assignment]
    return np.asarray(np.linalg.svd(outer @ inner.T, compute_uv=False), np.float64)


def not_finite(store: Store) -> dict[str, int]:
    """Tensors with NaN or Inf in them, and how many."""
    counts = {name: _count_not_finite(store, name) for name, info in store.infos.items() if info.dtype.floating}
    return {name: count for name, count in counts.items() if count}


def _count_not_finite(store: Store, name: str) -> int:
    kind = store[name].dtype
    if kind.bits < 8:
        return 0  # the 4- and 6-bit floats have neither
    return sum(
        int(np.count_nonzero(~np.isfinite(widen(store.read(name, start, stop), kind))))
        for start, stop in store.spans(name, 4 << 20)
    )


def _magnitudes(store: Store, key: str) -> Magnitudes | None:
    values = store.array(key).astype(np.float64)
    return Magnitudes(float(values.min()), float(values.mean()), float(values.max())) if values.size else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
