"""Whether a weight's difference is of low rank, as a merged LoRA leaves it: by a random sketch of a part of its rows.

The range of D = W′ − W is found with a Gaussian test matrix (Halko, Martinsson, Tropp 2011, algorithm 4.1), and D's
singular values inside of it, in two passes over the rows. What lies outside is held against the noise that rounding the
merged weights to their type leaves, whose singular values end where those of a random matrix do (Marchenko, Pastur
1967).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from adaptool.comparing.models_measure import rows_of
from adaptool.parity.compare import Pair
from adaptool.tensors.dtypes import DType, Floats
from adaptool.tensors.store import Store

MOST_RANK = 64
"""Of a LoRA that is recognised."""
SKETCH = MOST_RANK + 16
ROWS = 2048
"""Read of a tensor, in runs of RUN spread over it: a part of the rows has the rank that the whole has."""
RUN = 64

EXPLAINED = 0.99
"""Share of ‖D‖² that the directions of a low-rank difference hold, where rounding took nothing."""
MOSTLY = 0.5
"""The share they must hold in any case."""
ROUNDED = 1.5
"""What is left over, against the energy of rounding, where rounding is all that is left."""
EDGE = 1.05
"""Above the largest singular value of noise, times this, a direction is one."""

EPSILON = {"BF16": 2.0**-7, "F16": 2.0**-10, "F32": 2.0**-23, "F64": 2.0**-52}


@dataclass(frozen=True, slots=True)
class DifferenceRank:
    """What the sketch found of one tensor."""

    rank: int | None
    """None: no low-rank difference, as training the whole weight leaves, or rescaling its rows."""
    explained: float
    """Share of ‖D‖² in the directions that stand out."""


def difference_rank(pair: Pair, before: Store, after: Store) -> DifferenceRank | None:
    """The numerical rank of W′ − W of a matrix; None where it is too small to tell, or not finite."""
    info = before[pair.expected]
    blocks = list(_runs(info.rows))
    rows = sum(stop - start for start, stop in blocks)
    width = min(SKETCH, min(rows, info.columns) // 2)
    if len(info.shape) != 2 or width < 8:
        return None
    test = np.random.default_rng(0).standard_normal((info.columns, width)).astype(np.float32)
    energy = after_energy = 0.0
    sketches = []
    for difference, values in _differences(pair, before, after, blocks):
        sketches.append(difference @ test)
        energy += float(np.square(difference, dtype=np.float64).sum())
        after_energy += float(np.square(values, dtype=np.float64).sum())
    if not (np.isfinite(energy) and energy > 0):
        return None
    basis = np.linalg.qr(np.concatenate(sketches))[0].astype(np.float32)
    inside = np.zeros((width, info.columns))
    at = 0
    for difference, _ in _differences(pair, before, after, blocks):
        inside += basis[at : at + len(difference)].T @ difference
        at += len(difference)
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(inside @ inside.T)[::-1], 0.0))
    noise = _rounding(after_energy, after[pair.actual].dtype)
    return _read(values, energy, noise, rows, info.columns)


def _read(values: Floats, energy: float, noise: float, rows: int, columns: int) -> DifferenceRank:
    width = len(values)
    rest = max(energy - float(values @ values), 0.0)
    spread = (rest / max(1, (rows - width) * (columns - width))) ** 0.5
    edge = max(EDGE * spread * (rows**0.5 + columns**0.5), 1e-4 * float(values[0]))
    rank = int((values > edge).sum())
    explained = float(np.square(values[:rank]).sum()) / energy
    left = energy * (1 - explained)
    low = 0 < rank <= min(MOST_RANK, width - 1, min(rows, columns) // 4)
    fits = explained >= EXPLAINED or (explained >= MOSTLY and left <= ROUNDED * noise)
    return DifferenceRank(rank if low and fits else None, explained)


def _rounding(energy: float, kind: DType) -> float:
    """The energy of rounding weights once: u²/12 each, u their unit in the last place, whose mean square is ε²w²/2."""
    return energy * EPSILON.get(kind.name, 2.0**-7) ** 2 / 24


def _runs(rows: int) -> Iterator[tuple[int, int]]:
    """Which rows are read: all, or runs spread evenly over them."""
    count = min(-(-rows // RUN), ROWS // RUN)
    for number in range(count):
        start = number * rows // count
        yield start, min(start + RUN, rows if number + 1 == count else (number + 1) * rows // count)


def _differences(
    pair: Pair, before: Store, after: Store, blocks: list[tuple[int, int]]
) -> Iterator[tuple[Floats, Floats]]:
    """W′ − W and W′ of each run of rows, in float32."""
    shift = pair.actual_row - pair.expected_row
    for start, stop in blocks:
        first = rows_of(before, before[pair.expected], start + pair.expected_row, stop + pair.expected_row)
        second = rows_of(after, after[pair.actual], start + pair.expected_row + shift, stop + pair.expected_row + shift)
        yield (second - first).astype(np.float32, copy=False), second
