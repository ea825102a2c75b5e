"""Quantising rows to GGML blocks: by our kernels where they were built, else by a prebuilt ggml.

Whichever runs, the bytes are llama-quantize's.
"""

from __future__ import annotations

import numpy as np

from adaptool.tensors.dtypes import Array, Floats
from adaptool.tensors.ggml.types import GGMLType


def quantize(values: Floats, kind: GGMLType, importance: Floats | None = None, out: Array | None = None) -> Array:
    """Rows of float32, shape (rows, columns), as blocks: uint8 of shape (rows, ``kind.row_nbytes(columns)``).

    ``importance`` weighs the columns (an imatrix row, shape (columns,)). ``columns`` is a multiple of ``kind.block``.
    Safe to call from several threads.
    """
    raise NotImplementedError
