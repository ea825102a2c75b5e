"""How far a faithful quantisation is from its weights: relative RMSE, ‖q − x‖ / ‖x‖, by type.

Measured with llama-quantize's own quantisers over matrices of 1024 columns: normal, uniform, Laplace and Student-t
numbers (4 and 2.5 degrees of freedom), outlying columns, rows and columns of very different sizes, and weights of
SmolLM2-135M and all-MiniLM-L6. An imatrix (log-normal, σ = 1 and 2.5) trades plain RMSE for the columns that matter:
beside it stands the most that cost, as a factor.

    type     normal   all of them      imatrix      type      normal   all of them      imatrix
    F16      0.00021  0.00021                       MXFP4     0.115    0.101–0.168      none
    BF16     0.0017   0.0017                        IQ3_S     0.165    0.145–0.263      1.38
    Q8_0     0.0054   0.0015–0.011     none         Q3_K      0.151    0.125–0.185      1.16
    Q6_K     0.018    0.013–0.031      1.64         IQ3_XXS   0.214    0.193–0.333      1.29
    Q5_K     0.036    0.019–0.052      1.17         IQ2_S     0.263    0.243–0.564      1.17
    Q5_1     0.038    0.029–0.053      1.15         Q2_K      0.297    0.233–0.382      1.34
    Q5_0     0.043    0.031–0.085      1.17         IQ2_XS    0.320    0.316–0.615      required
    Q4_K     0.072    0.018–0.101      1.32         IQ2_XXS   0.363    0.353–0.691      required
    Q4_1     0.078    0.001–0.110      1.25         IQ1_M     0.494    0.441–0.617      required
    Q4_0     0.086    0.065–0.143      1.14         IQ1_S     0.523    0.458–0.675      required
    IQ4_NL   0.076    0.064–0.117      1.36         TQ1_0     0.809    0.496–0.867      none
    IQ4_XS   0.077    0.065–0.120      1.56         TQ2_0     0.809    0.496–0.867      none

The lowest are of weights that had been quantised before; the ternary types are for models trained to be ternary. The
distribution matters more than the type's name says, so a tensor's own expectation, where it can be had, is what our
quantiser loses on the very same rows, and this table only stands in for it.
"""

from __future__ import annotations

import math

from adaptool.tensors.dtypes import DType

TYPICAL = {
    "F64": 1e-7,
    "F32": 1e-7,
    "F16": 2.2e-4,
    "BF16": 1.7e-3,
    "Q8_0": 0.0054,
    "Q8_1": 0.0054,
    "Q8_K": 0.0054,
    "Q6_K": 0.018,
    "Q5_K": 0.036,
    "Q5_1": 0.038,
    "Q5_0": 0.043,
    "Q4_K": 0.072,
    "Q4_1": 0.078,
    "Q4_0": 0.086,
    "IQ4_NL": 0.076,
    "IQ4_XS": 0.077,
    "MXFP4": 0.115,
    "Q3_K": 0.151,
    "IQ3_S": 0.165,
    "IQ3_XXS": 0.214,
    "IQ2_S": 0.263,
    "Q2_K": 0.297,
    "IQ2_XS": 0.32,
    "IQ2_XXS": 0.363,
    "IQ1_M": 0.494,
    "IQ1_S": 0.523,
    "TQ1_0": 0.81,
    "TQ2_0": 0.81,
}
"""Of normal weights."""

SAME_QUANTISER = 1.03
"""Times our quantiser's loss on the same rows: what llama-quantize's own may lose where few blocks differ."""

WITH_IMATRIX = 1.75
"""The same with an importance matrix that is not at hand."""

WIDEST = 2.0
"""Times the typical loss, where our quantiser cannot be asked: what the widest distribution measured loses."""

BLOCK_FACTOR = 6.0
"""A block's own loss over the typical one; the worst of a million faithful blocks, without an imatrix, was 3.4."""

BLOCK_MOST = 0.9
"""A block that was zeroed loses all it had: 1."""

COARSE = 0.3
"""Types that lose more than this have faithful blocks that lose nearly all."""

COARSE_BLOCK_MOST = 1.3


def typical(kind: DType) -> float:
    """What a faithful tensor of normal weights loses."""
    return TYPICAL.get(kind.name, TYPICAL["F32"])


def bound(kind: DType, ours: float | None, *, imatrix: bool) -> float:
    """The most a faithful tensor of this type loses, where our quantiser loses ``ours`` on the same rows."""
    if ours is None:
        return typical(kind) * WIDEST
    if not kind.blocked:
        return ours + typical(kind)
    return max(WITH_IMATRIX * ours, typical(kind)) if imatrix else SAME_QUANTISER * ours + typical(kind) / 100


def block_bound(kind: DType, rounded: DType | None, *, imatrix: bool) -> float:
    """The most one block of a faithful tensor loses; ``rounded`` is what an update in it was rounded to before."""
    loss = math.hypot(typical(kind), typical(rounded) if rounded is not None else 0.0)
    if loss >= COARSE:
        return COARSE_BLOCK_MOST
    return BLOCK_MOST if imatrix and kind.blocked else min(BLOCK_MOST, BLOCK_FACTOR * loss)
