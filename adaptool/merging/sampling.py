"""The check every merge makes of itself: rows read back from the written file against plain float64 formulas.

One row of every piece is enough to catch a wrong offset, a race, a broken kernel or a lost write, and costs
next to nothing; ``verify`` checks every element.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from adaptool.errors import ParityError
from adaptool.merging.merged import Merged
from adaptool.tensors.dtypes import Array, DType, Floats, narrow, widen
from adaptool.tensors.store import Store
from adaptool.tensors.views import View

ReadRows = Callable[[int, int], Array]
"""Rows from one on, and how many."""

FLOAT32_NOISE = 2.0**-17
"""Relative to the largest term: what summing r products in float32 may differ from float64 by, generously."""

MANTISSA_BITS = {"BF16": 8, "F16": 11, "F32": 24, "F64": 53}


def spacing(values: Floats, kind: DType) -> Floats:
    """The distance between neighbouring numbers of ``kind`` at each value (one unit in the last place)."""
    smallest = {"BF16": 2.0**-133, "F16": 2.0**-24, "F32": 2.0**-149, "F64": 2.0**-1074}[kind.name]
    _, exponent = np.frexp(np.abs(values))
    return np.maximum(np.ldexp(1.0, exponent - MANTISSA_BITS[kind.name]), smallest)


@dataclass
class Sampled:
    """What the sample saw so far."""

    rows: int = 0
    changed: int = 0


class SampleCheck:
    """Checks one row of each computed piece against float64; raises ParityError where it is not what it must be."""

    def __init__(self, merged: Merged) -> None:
        self._merged = merged
        self._lock = threading.Lock()
        self.seen = Sampled()

    def applies(self, source_name: str) -> bool:
        """Whether pieces of a tensor are sampled: those computed, but for an SVD of the whole (verify checks it)."""
        patches = self._merged.plan.patches.get(source_name, ())
        return bool(patches) and not any(patch.whole for patch in patches)

    def unit(self, source_name: str) -> int:
        """Store rows that are checked together."""
        return self._merged.layout(source_name).unit if self.applies(source_name) else 1

    def __call__(self, source_name: str, label: str, start: int, stop: int, kind: DType, read: ReadRows) -> None:
        """Check one of the rows ``start:stop``, chosen by a hash of its place so that runs agree on it.

        ``read(row, count)`` gives rows as they were written, in the type ``kind``; ``label`` is what they are called.
        """
        if not self.applies(source_name):
            return
        patches = self._merged.plan.patches[source_name]
        layout = self._merged.layout(source_name)
        first, last = start // layout.unit, stop // layout.unit
        row = first + zlib.crc32(f"{source_name}:{start}".encode()) % (last - first)
        unmerged = self._merged.unmerged(source_name, row * layout.unit, (row + 1) * layout.unit)
        before = widen(unmerged, self._merged[source_name].dtype).astype(np.float64).ravel()
        written = read(row * layout.unit, layout.unit)
        after = widen(written, kind).astype(np.float64).ravel()
        exact, scale = (values.ravel() for values in self._merged.exact(source_name, row, 1))
        roundings = 2 * len(patches) ** 2 + (kind != self._merged[source_name].dtype)
        allowed = roundings * 0.5 * self._spacing(scale, source_name, kind) + FLOAT32_NOISE * np.max(scale)
        wrong = ~(np.abs(after - exact) <= allowed) & np.isfinite(exact)
        if wrong.any():
            column = int(np.argmax(wrong))
            raise ParityError(
                f"{label}, row {row}, column {column}: wrote {after[column]:.8g}, must be {exact[column]:.8g}",
                hint="the machine or adaptool computed wrongly: please report it with the adapter's config",
            )
        with self._lock:
            self.seen.rows += 1
            self.seen.changed += not np.array_equal(written.ravel(), narrow(before, kind).ravel())

    def _spacing(self, scale: Floats, source_name: str, kind: DType) -> Floats:
        return np.maximum(spacing(scale, kind), spacing(scale, self._merged[source_name].dtype))


@dataclass(frozen=True, eq=False)
class SampledView(View):
    """The merged model, a row of whatever is read from it checked: where no 16-bit file is written to read back."""

    source: Store
    names: Mapping[str, str]
    """Output tensor → its name in the merge."""
    check: SampleCheck

    def read(self, name: str, start: int = 0, stop: int | None = None, out: Array | None = None) -> Array:
        rows = self.source.read(name, start, stop, out)
        info, start, stop = self.span(name, start, stop)
        unit = self.check.unit(self.names[name])
        if start < stop and not (start % unit or stop % unit):
            self.check(self.names[name], name, start, stop, info.dtype, lambda at, n: rows[at - start : at - start + n])
        return rows
