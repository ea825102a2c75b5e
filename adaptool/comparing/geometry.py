"""The geometry of two updates ΔW = s·B@A and ΔW′, exactly, from their factors: neither is ever formed.

All that is asked of them (norms, inner product, distance, singular directions) follows from the Gram matrices of
[B B′] and of [Aᵀ A′ᵀ], of 2r × 2r. A distance far below the norms would drown in the difference of their squares, so it
is then taken from a form in which nothing cancels (``_close_distance``). All in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adaptool.adapters.factors import Factors
from adaptool.summary.spectrum import product_singular_values

Matrix = NDArray[np.float64]

USED = 1e-6
"""σ/σ₁ down to which a direction counts: below it lies the rounding of float32 factors."""

CANCELS = 1e-4
"""distance²/‖ΔW‖² below which the squares' difference has lost digits that matter."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Two updates of one shape, the second against the first. Norms are Frobenius."""

    norm_before: float
    norm_after: float
    inner: float
    """⟨ΔW, ΔW′⟩."""
    distance: float
    column_angles: tuple[float, ...]
    """Principal angles of the column spaces in degrees, the smallest first (Björck, Golub 1973); () where one is 0."""
    row_angles: tuple[float, ...]
    used_before: int
    """How many directions ΔW has."""
    used_after: int


@dataclass(frozen=True, slots=True)
class Update:
    """ΔW = scale·left@right, left (m, r), right (r, n)."""

    left: Matrix
    right: Matrix
    scale: float


def update_of(factors: Factors, scale: float) -> Update:
    """The factors of one matrix, read."""
    left, right = factors.load("float64")
    return Update(np.ascontiguousarray(left), np.ascontiguousarray(right), scale)


def finite(update: Update) -> bool:
    """Whether every number of it is one."""
    return bool(np.isfinite(update.left).all() and np.isfinite(update.right).all())


def geometry(before: Update, after: Update) -> Geometry:
    """Compare two updates of one (m, n), of any two ranks."""
    r = before.left.shape[1]
    lefts = np.hstack([before.left, after.left])
    rights = np.vstack([before.right, after.right])
    columns, rows = lefts.T @ lefts, rights @ rights.T
    products = columns * rows
    one = _norm(before, float(products[:r, :r].sum()))
    two = _norm(after, float(products[r:, r:].sum()))
    inner = before.scale * after.scale * float(products[:r, r:].sum())
    square, largest = one**2 + two**2 - 2 * inner, max(one, two) ** 2
    apart = (
        _close_distance(before, after, columns[:r, :r], columns[:r, r:]) if square < CANCELS * largest else square**0.5
    )
    first = _directions(columns[:r, :r], rows[:r, :r]) if one else None
    second = _directions(columns[r:, r:], rows[r:, r:]) if two else None
    if first is None or second is None:
        used = [0 if side is None else side[0].shape[1] for side in (first, second)]
        return Geometry(one, two, inner, apart, (), (), used[0], used[1])
    return Geometry(
        one, two, inner, apart,
        _angles(first[0].T @ columns[:r, r:] @ second[0]), _angles(first[1].T @ rows[:r, r:] @ second[1]),
        first[0].shape[1], second[0].shape[1],
    )  # fmt: skip


def same_geometry(update: Update) -> Geometry:
    """An update against itself."""
    columns, rows = update.left.T @ update.left, update.right @ update.right.T
    norm = _norm(update, float((columns * rows).sum()))
    used = _directions(columns, rows)[0].shape[1] if norm else 0
    still = (0.0,) * used
    return Geometry(norm, norm, norm**2, 0.0, still, still, used, used)


def together(parts: Sequence[Geometry]) -> Geometry:
    """Several matrices of one tensor (its experts) as one; angles and ranks are those of the one that moved most."""
    if len(parts) == 1:
        return parts[0]
    worst = max(parts, key=lambda part: part.distance)
    return Geometry(
        sum(part.norm_before**2 for part in parts) ** 0.5, sum(part.norm_after**2 for part in parts) ** 0.5,
        sum(part.inner for part in parts), sum(part.distance**2 for part in parts) ** 0.5,
        worst.column_angles, worst.row_angles,
        max(part.used_before for part in parts), max(part.used_after for part in parts),
    )  # fmt: skip


def _norm(update: Update, square: float) -> float:
    """‖s·left@right‖ from the sum of products, or exactly where the factors cancel each other in it."""
    bound = float(np.square(update.left).sum() * np.square(update.right).sum())
    if square <= 1e-10 * bound:
        square = float(np.square(product_singular_values(update.left, update.right)).sum())
    return abs(update.scale) * max(square, 0.0) ** 0.5


def _close_distance(before: Update, after: Update, own: Matrix, cross: Matrix) -> float:
    """‖ΔW′ − ΔW‖ without cancellation, whatever T is: with B′ = BT + E and F = s′TA′ − sA it is ‖BF + s′EA′‖.

    T is the least-squares fit, so E is orthogonal to B and the two terms are to each other: both small, neither
    taking from the other.
    """
    fit: Matrix = np.linalg.pinv(own, rcond=1e-13, hermitian=True) @ cross
    rest = after.scale * (after.left - before.left @ fit)
    moved = after.scale * (fit @ after.right) - before.scale * before.right
    lefts, rights = np.hstack([before.left, rest]), np.vstack([moved, after.right])
    return max(float(((lefts.T @ lefts) * (rights @ rights.T)).sum()), 0.0) ** 0.5


def _directions(columns: Matrix, rows: Matrix) -> tuple[Matrix, Matrix]:
    """K and K′ with left@K and rightᵀ@K′ the singular vectors of left@right, from the factors' Gram matrices."""
    outer, inner = _root(columns), _root(rows)
    u, values, vt = np.linalg.svd(outer[1].T @ inner[1])
    kept = int((values > USED * values[0]).sum()) if values.size else 0
    return outer[0] @ u[:, :kept], inner[0] @ vt[:kept].T


def _root(gram: Matrix) -> tuple[Matrix, Matrix]:
    """(V/√λ, V√λ) of a Gram matrix: X@V/√λ is orthonormal, and (V√λ)ᵀ is X in that basis."""
    values, vectors = np.linalg.eigh(gram)
    kept = values > 1e-13 * values[-1]
    roots = np.sqrt(values[kept])
    return vectors[:, kept] / roots, vectors[:, kept] * roots


def _angles(overlaps: Matrix) -> tuple[float, ...]:
    cosines = np.linalg.svd(overlaps, compute_uv=False)
    return tuple(float(angle) for angle in np.degrees(np.arccos(np.clip(cosines, 0.0, 1.0))))
