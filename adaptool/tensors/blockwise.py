"""The arithmetic of bitsandbytes' 4-bit types: blocks of a flat tensor, one scale (``absmax``) each.

Every step rounds where bitsandbytes' CPU code rounds, so results are the same bits: products and scales
are float32, and the one rounding to the output type comes last. Checked against bitsandbytes 0.50.2.

Sources: Dettmers et al., "QLoRA" (2023), for NF4 and double quantisation; Dettmers et al., "8-bit Optimizers
via Block-wise Quantization" (2022), for the dynamic map.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from adaptool.tensors.dtypes import Array

F32Array = NDArray[np.float32]
Bytes = NDArray[np.uint8]

BLOCKSIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
"""Elements per scale: what bitsandbytes accepts."""

NESTED_BLOCKSIZE = 256
"""Scales per scale of scales, under double quantisation."""

SMALLEST_ABSMAX = np.float32(1e-38)
"""Below it a block divides by this instead, so that a block of zeros stays zeros."""

# fmt: off
CODES: dict[str, F32Array] = {
    "nf4": np.array(
        [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
         -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634,
         0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0], np.float32),
    "fp4": np.array([0, 0.0625, 8, 12, 4, 6, 2, 3, 0, -0.0625, -8, -12, -4, -6, -2, -3], np.float32) / np.float32(12),
}
# fmt: on
"""The sixteen values of each type, by their 4-bit index; FP4's second zero is +0, as in the vectorised kernels."""


@cache
def _byte_values(quant_type: str) -> NDArray[np.uint64]:
    """Both float32 values of each packed byte (high nibble first) as one 8-byte item: a lookup is one gather."""
    code, byte = CODES[quant_type], np.arange(256)
    return np.ascontiguousarray(np.stack([code[byte >> 4], code[byte & 15]], axis=1)).view(np.uint64)[:, 0]


@cache
def _levels(quant_type: str) -> tuple[F32Array, F32Array]:
    """The midpoints that separate the values, ascending, and the values, descending."""
    ordered = np.sort(CODES[quant_type])
    return (ordered[:-1] + ordered[1:]) / np.float32(2), ordered[::-1].copy()


def dequantize(packed: Bytes, absmax: F32Array, quant_type: str, blocksize: int) -> F32Array:
    """Packed bytes of whole blocks (the last may be short) as float32 values; ``absmax`` has one scale per block."""
    values = _byte_values(quant_type).take(packed).view(np.float32)
    _scale(values, absmax, blocksize)
    return values


def nearest(values: F32Array, absmax: F32Array, quant_type: str, blocksize: int) -> F32Array:
    """Each value's code, in [-1, 1]: the nearest to value / absmax, the lower one on a tie, the top one for NaN.

    A whole block is multiplied by a rounded reciprocal and a short last block is divided, as bitsandbytes does.
    """
    bounds, descending = _levels(quant_type)
    divisor = np.maximum(absmax, SMALLEST_ABSMAX)
    blocks = values.size // blocksize
    scaled = values.copy()
    with np.errstate(invalid="ignore", over="ignore"):  # infinite blocks become NaN, there as here
        scaled[: blocks * blocksize].reshape(blocks, blocksize)[...] *= (np.float32(1) / divisor[:blocks])[:, None]
        scaled[blocks * blocksize :] /= divisor[blocks:]
    steps = np.zeros(scaled.shape, np.uint8)
    below = np.empty(scaled.shape, np.bool_)
    for bound in bounds:
        steps += np.less_equal(scaled, bound, out=below).view(np.uint8)
    return descending.take(steps)


def round_trip(values: F32Array, absmax: F32Array, scales: F32Array, quant_type: str, blocksize: int) -> F32Array:
    """Values quantised by ``absmax`` and dequantised by ``scales`` (the same, or their own 8-bit round trip)."""
    result = nearest(values, absmax, quant_type, blocksize)
    _scale(result, scales, blocksize)
    return result


def block_absmax(values: F32Array, blocksize: int) -> F32Array:
    """The largest magnitude of each block; of a short last block, at least SMALLEST_ABSMAX."""
    magnitudes: F32Array = np.abs(values)
    blocks = values.size // blocksize
    whole = magnitudes[: blocks * blocksize]
    while whole.size > blocks:  # neighbours fold pairwise: a reduction over so short an axis is three times slower
        whole = np.maximum(whole[::2], whole[1::2])
    if values.size == blocks * blocksize:
        return whole
    return np.append(whole, np.maximum(magnitudes[blocks * blocksize :].max(), SMALLEST_ABSMAX))


def _scale(values: F32Array, scales: F32Array, blocksize: int) -> None:
    blocks = values.size // blocksize
    with np.errstate(invalid="ignore", over="ignore"):
        values[: blocks * blocksize].reshape(blocks, blocksize)[...] *= scales[:blocks, None]
        values[blocks * blocksize :] *= scales[blocks : blocks + 1]


def dequantize_8bit(indices: Bytes, absmax: F32Array, code: F32Array, blocksize: int, first: int = 0) -> F32Array:
    """8-bit indices as float32; index 0 lies at ``first`` within the first block of ``absmax``."""
    blocks = (np.arange(indices.size) + first) // blocksize
    with np.errstate(invalid="ignore"):
        return code.take(indices) * absmax.take(blocks)


def quantize_8bit(values: F32Array) -> tuple[Bytes, F32Array]:
    """Blocks of NESTED_BLOCKSIZE as indices into the dynamic map and an absmax each.

    bitsandbytes' CPU code rounds to 65536 steps first and looks those up; its GPU code searches the map itself.
    """
    padded = np.zeros(-(-values.size // NESTED_BLOCKSIZE) * NESTED_BLOCKSIZE, np.float32)
    padded[: values.size] = values
    blocks = padded.reshape(-1, NESTED_BLOCKSIZE)
    absmax = np.fmax.reduce(np.abs(blocks), axis=1, initial=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = blocks * (np.float32(1) / absmax)[:, None]
        steps = (np.clip(scaled, -1, 1) + np.float32(1)) * np.float32(0.5) * np.float32(65535) + np.float32(0.5)
    indices = _step_indices().take(np.nan_to_num(steps, copy=False, nan=0).astype(np.uint16))
    indices[absmax == 0] = 0
    return indices.reshape(-1)[: values.size], absmax


@cache
def _step_indices() -> Bytes:
    """For each of 65536 steps from -1 to 1, the nearest entry of the dynamic map."""
    code = dynamic_map()
    steps = np.float32(-1) + np.float32(2) * np.arange(65536, dtype=np.float32) / np.float32(65535)
    return np.searchsorted(np.float32(0.5) * (code[:-1] + code[1:]), steps).astype(np.uint8)


@cache
def dynamic_map() -> F32Array:
    """The signed 8-bit dynamic type: seven decades, each split twice as finely as the one below it."""
    entries = [np.array([0, 1], np.float32)]
    for decade in range(7):
        parts = 2**decade
        step = float((np.float32(1) - np.float32(0.1)) / np.float32(parts))
        # from both ends towards the middle, each edge rounded once
        low, high = np.float32(0.1) + step * np.arange(parts + 1, dtype=np.float64), 1 - step * np.arange(parts, -1, -1)
        edges = np.where(np.arange(parts + 1) < (parts + 1) // 2, low, high).astype(np.float32)
        middles = (edges[:-1] + edges[1:]) / np.float32(2) * np.float32(10.0 ** (decade - 6))
        entries += [middles, -middles]
    return np.sort(np.concatenate(entries))


def float32_mean(values: F32Array) -> np.float32:
    """The mean as PyTorch's CPU kernel rounds it on one thread: 8 lanes × 4 running sums, cascaded over four levels.

    The last bit of a sum depends on its order, and double quantisation subtracts this mean from every scale. PyTorch
    splits more than 32768 values among its threads; there its own last bit depends on their number.
    """
    lanes = 8 if values.size >= 8 else 1
    vectors = values[: values.size // lanes * lanes].reshape(-1, lanes)
    rows = len(vectors) // 4
    sums = _cascade(vectors[: rows * 4].reshape(rows, 4 * lanes)).reshape(4, lanes)
    for vector in vectors[rows * 4 :]:
        sums[0] += vector
    for other in sums[1:]:
        sums[0] += other
    total = np.float32(0)
    with np.errstate(invalid="ignore"):
        for value in (*values[vectors.size :], *sums[0]):
            total += value
        return np.float32(total / np.float32(values.size))


def _cascade(rows: F32Array) -> F32Array:
    """Column sums: runs of ``step`` rows, then runs of ``step`` runs, and so on, so that errors stay small."""
    power = max(4, (max(len(rows), 1) - 1).bit_length() // 4)
    step = 1 << power
    runs = len(rows) // step
    sums = np.zeros((4, rows.shape[1]), np.float32)
    for run in range(runs):
        sums[1] += np.add.reduce(rows[run * step : (run + 1) * step], axis=0)
        for level in (2, 3):
            if (run + 1) * step & (step - 1) << (level - 1) * power:
                break
            sums[level] += sums[level - 1]
            sums[level - 1] = 0
    for row in rows[runs * step :]:
        sums[0] += row
    total: F32Array = np.add.reduce(sums, axis=0)
    return total


def as_bytes(raw: Array) -> Bytes:
    """The same memory, byte by byte."""
    return np.ascontiguousarray(raw).reshape(-1).view(np.uint8)
