"""The geometry of two updates ΔW = s·B@A and ΔW′, exactly, from their factors: neither is ever formed.

All that is asked of them (norms, inner product, distance, singular directions) follows from the Gram matrices of
[B B′] and of [Aᵀ A′ᵀ], of 2r × 2r. A distance far below the norms would drown in the difference of their squares, so it
is then taken from a form in which nothing cancels (``_close_distance``). All in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adaptool.adapters.factors import Factors
from adaptool.summary.spectrum import product_singular_values
from adaptool.tensors.dtypes import F64, Floats

Matrix = NDArray[np.float64]

USED = 1e-6
"""σ/σ₁ down to which a direction counts: below it lies the rounding of float32 factors."""

ABSURD = 1024
"""A rank beyond every adapter that was trained."""

PIECE = 512
"""Rows of the factors multiplied at a time."""

CANCELS = 1e-10
"""distance²/(‖B‖‖A‖)² below which the squares' difference has lost digits that matter: of 16 it leaves 5."""


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
    """ΔW = scale·left@right, left (m, r), right (r, n); float32 or float64."""

    left: Floats
    right: Floats
    scale: float


@dataclass(frozen=True, slots=True)
class Joint:
    """Two updates of one (m, n), and the Gram matrices of their factors side by side: all else is in these."""

    before: Update
    after: Update
    columns: Matrix
    """[B B′]ᵀ@[B B′]."""
    rows: Matrix
    """[A; A′]@[A; A′]ᵀ."""

    @property
    def rank(self) -> int:
        """The first's: where the second begins in the Gram matrices."""
        return self.before.left.shape[1]

    @property
    def scales(self) -> tuple[float, float]:
        """What the two products are multiplied with."""
        return self.before.scale, self.after.scale

    @property
    def finite(self) -> bool:
        """Whether every number of both is one: a Gram matrix has NaN or Inf where a factor has."""
        return bool(np.isfinite(self.columns).all() and np.isfinite(self.rows).all())

    @property
    def factor_cosines(self) -> tuple[float | None, float | None]:
        """The cosines of B with B′ and of A with A′, element by element; None where one is zero, or another rank."""
        return _cosine(self.columns, self.rank), _cosine(self.rows, self.rank)

    @property
    def factor_growth(self) -> tuple[float, float]:
        """‖B′‖²/‖B‖² and ‖A′‖²/‖A‖², as negative as their cosines; asked only where there are cosines."""
        return _growth(self.columns, self.rank), _growth(self.rows, self.rank)


def update_of(factors: Factors, scale: float) -> Update:
    """The factors of one matrix, read."""
    infos = factors.store.infos
    wide = any(infos[key].dtype == F64 for key in (factors.a, factors.b))
    return Update(*factors.load("float64" if wide else "float32"), scale)


def compact(update: Update) -> Update:
    """The same update in factors no wider than it has directions, where a file claims an absurd rank.

    Gram matrices of that rank would be larger than the file, ΔW itself is not.
    """
    left, right = update.left, update.right
    smaller = min(left.shape[0], right.shape[1])
    if left.shape[1] <= max(smaller, ABSURD):
        return update
    product = np.zeros((left.shape[0], right.shape[1]))
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, left.shape[1], PIECE):
            stop = start + PIECE
            product += left[:, start:stop].astype(np.float64) @ right[start:stop].astype(np.float64)
    unit = np.eye(smaller)
    sides = (product, unit) if right.shape[1] == smaller else (unit, product)
    return Update(*sides, update.scale)


def joint(before: Update, after: Update) -> Joint:
    """Put two updates side by side."""
    return Joint(before, after, _gram(before.left, after.left), _gram(before.right.T, after.right.T))


def _gram(first: Floats, second: Floats) -> Matrix:
    """XᵀX of X = [first second]."""
    both = first.shape[1] + second.shape[1]
    total = np.zeros((both, both))
    with np.errstate(invalid="ignore"):
        for rows in _pieces(first, second):
            total += rows.T @ rows
    return total


def _pieces(first: Floats, second: Floats) -> Iterator[Matrix]:
    """[first second] in float64, PIECE rows at a time, in one buffer that stays in the processor's cache."""
    width = first.shape[1]
    buffer = np.empty((PIECE, width + second.shape[1]), order="F" if first.flags.f_contiguous else "C")
    for start in range(0, len(first), PIECE):
        rows = buffer[: min(PIECE, len(first) - start)]
        rows[:, :width], rows[:, width:] = first[start : start + PIECE], second[start : start + PIECE]
        yield rows


def geometry(pair: Joint) -> Geometry:
    """Compare two updates of any two ranks, all their numbers finite."""
    r, columns, rows = pair.rank, pair.columns, pair.rows
    one, two, inner, apart = lengths(pair)
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


def lengths(pair: Joint) -> tuple[float, float, float, float]:
    """‖ΔW‖, ‖ΔW′‖, ⟨ΔW, ΔW′⟩ and ‖ΔW′ − ΔW‖; not a number where one of theirs is none."""
    r, columns, rows = pair.rank, pair.columns, pair.rows
    one = _norm(pair.before, columns[:r, :r], rows[:r, :r])
    two = _norm(pair.after, columns[r:, r:], rows[r:, r:])
    inner = pair.scales[0] * pair.scales[1] * float((columns[:r, r:] * rows[:r, r:]).sum())
    square = one**2 + two**2 - 2 * inner
    return one, two, inner, _close_distance(pair) if square < CANCELS * _bound(pair) else square**0.5


def unmoved(update: Update) -> Geometry | None:
    """An update against itself; None where a number of it is none."""
    left, right = update.left, update.right.T
    columns, rows = _gram(left, left[:, :0]), _gram(right, right[:, :0])
    if not (np.isfinite(columns).all() and np.isfinite(rows).all()):
        return None
    norm = _norm(update, columns, rows)
    used = _directions(columns, rows)[0].shape[1] if norm else 0
    return Geometry(norm, norm, norm**2, 0.0, (0.0,) * used, (0.0,) * used, used, used)


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


def _norm(update: Update, columns: Matrix, rows: Matrix) -> float:
    """‖s·left@right‖ from the sum of products, or exactly where the factors cancel each other in it."""
    square = float((columns * rows).sum())
    if square <= 1e-10 * float(np.trace(columns) * np.trace(rows)):
        left, right = (side.astype(np.float64, copy=False) for side in (update.left, update.right))
        square = float(np.square(product_singular_values(left, right)).sum())
    return abs(update.scale) * max(square, 0.0) ** 0.5


def _bound(pair: Joint) -> float:
    """(s‖B‖‖A‖)² of the larger update: what its norm would be if nothing in the product cancelled."""
    r, columns, rows = pair.rank, np.diag(pair.columns), np.diag(pair.rows)
    squares = columns[:r].sum() * rows[:r].sum(), columns[r:].sum() * rows[r:].sum()
    return float(max(scale**2 * square for scale, square in zip(pair.scales, squares, strict=True)))


def _cosine(gram: Matrix, r: int) -> float | None:
    if len(gram) != 2 * r:
        return None
    norms = float(np.trace(gram[:r, :r]) * np.trace(gram[r:, r:])) ** 0.5
    return float(np.trace(gram[:r, r:])) / norms if norms else None


def _growth(gram: Matrix, r: int) -> float:
    """‖X′‖²/‖X‖², as negative as the cosine of the two."""
    return float(np.copysign(np.trace(gram[r:, r:]) / np.trace(gram[:r, :r]), np.trace(gram[:r, r:])))


def _close_distance(pair: Joint) -> float:
    """‖ΔW′ − ΔW‖ without cancellation, whatever T is: with B′ = BT + E and F = s′TA′ − sA it is ‖BF + s′EA′‖.

    T is the least-squares fit, so E is orthogonal to B and the two terms are to each other: both small, neither
    taking from the other. Only where B is nearly singular is there a product of the two.
    """
    r, (scale, scale_after) = pair.rank, pair.scales
    own, cross, rows_after = pair.columns[:r, :r], pair.columns[:r, r:], pair.rows[r:, r:]
    fit: Matrix = np.linalg.pinv(own, rcond=1e-13, hermitian=True) @ cross
    rest, moved = np.zeros_like(rows_after), np.zeros_like(own)
    for rows in _pieces(pair.before.left, pair.after.left):
        E = rows[:, r:] - rows[:, :r] @ fit
        rest += E.T @ E
    for rows in _pieces(pair.before.right.T, pair.after.right.T):
        F = rows[:, r:] @ (scale_after * fit.T) - scale * rows[:, :r]
        moved += F.T @ F
    between = (cross - own @ fit) * (scale_after * fit @ rows_after - scale * pair.rows[:r, r:])
    square = (own * moved).sum() + scale_after**2 * (rest * rows_after).sum() + 2 * scale_after * between.sum()
    return max(float(square), 0.0) ** 0.5


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
