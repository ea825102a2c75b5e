"""Blocks back to float32: ggml's values bit for bit, whoever computes them."""

from __future__ import annotations

import numpy as np
import pytest

from adaptool.errors import MismatchError, UnsupportedError
from adaptool.tensors.dtypes import BF16, F16, F32, Array, Floats, narrow
from adaptool.tensors.ggml import kernels, prebuilt
from adaptool.tensors.ggml.dequantize import dequantize, dequantizers
from adaptool.tensors.ggml.quantize import Backend, quantize
from adaptool.tensors.ggml.types import GGML_TYPES

COLUMNS = 1024
IN_FILES = [name for name in GGML_TYPES if name not in ("Q8_1", "Q8_K")]
COMPILED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4")


def _any_blocks(name: str, rows: int = 16) -> Array:
    """Random bytes: every bit pattern is a block, infinite scales and NaN among them."""
    seed = sum(name.encode())
    return np.random.default_rng(seed).integers(0, 256, (rows, GGML_TYPES[name].row_nbytes(COLUMNS)), dtype=np.uint8)


def _bits(values: Floats) -> Array:
    """The bits, any NaN as one NaN: which of them arises is the processor's affair."""
    return np.where(np.isnan(values), np.float32(np.nan), values).view(np.uint32)


@pytest.mark.parametrize("name", IN_FILES)
def test_everyone_reads_the_same_values(name: str):
    raw = _any_blocks(name)
    kind = GGML_TYPES[name]
    read = {backend: _bits(dequantize(raw, kind, COLUMNS, backend=backend)) for backend in dequantizers(kind)}
    assert read, "gguf reads every type of files"
    first = next(iter(read.values()))
    assert not [backend for backend, bits in read.items() if not np.array_equal(first, bits)]


@pytest.mark.parametrize("name", COMPILED)
def test_the_compiled_kernels_read_what_gguf_reads(name: str):
    if kernels.kernel(f"dequantize_{name.lower()}") is None:
        pytest.skip("the kernels were not compiled")
    constants, quants = pytest.importorskip("gguf.constants"), pytest.importorskip("gguf.quants")
    raw = _any_blocks(name)
    with np.errstate(all="ignore"):
        expected = quants.dequantize(raw, constants.GGMLQuantizationType(GGML_TYPES[name].id))
    assert np.array_equal(_bits(expected), _bits(dequantize(raw, GGML_TYPES[name], COLUMNS, backend=Backend.KERNELS)))


@pytest.mark.parametrize("name", COMPILED)
def test_what_was_quantised_comes_back_close(name: str):
    values = np.random.default_rng(3).standard_normal((4, COLUMNS)).astype(np.float32)
    back = dequantize(quantize(values, GGML_TYPES[name]), GGML_TYPES[name], COLUMNS)
    bits = GGML_TYPES[name].bits_per_weight
    # Each bit halves the error; about 0.35 of the standard deviation is left at 2.6 bits.
    assert np.sqrt(np.mean((back - values) ** 2)) < 0.35 * 2 ** (2.6 - min(bits, 6.6)) * 1.5


@pytest.mark.parametrize(("name", "scale"), [("Q8_1", "<f2"), ("Q8_K", "<f4")])
def test_types_of_activations_are_read(name: str, scale: str):
    kind = GGML_TYPES[name]
    numbers = np.arange(COLUMNS) % 251 - 125
    blocks = np.zeros((COLUMNS // kind.block, kind.block_nbytes), np.uint8)
    blocks[:, : np.dtype(scale).itemsize] = np.full(len(blocks), 0.5, scale).view(np.uint8).reshape(len(blocks), -1)
    blocks[:, 4 : 4 + kind.block] = numbers.astype(np.int8).view(np.uint8).reshape(len(blocks), -1)
    assert np.array_equal(0.5 * numbers, dequantize(blocks.reshape(1, -1), kind, COLUMNS)[0])


@pytest.mark.parametrize("kind", [F32, F16, BF16])
def test_plain_types_are_widened(kind):
    values = np.arange(-32, 32, dtype=np.float32).reshape(2, 32) / 4
    assert np.array_equal(values, dequantize(narrow(values, kind), kind, 32))


def test_values_are_written_where_the_caller_says():
    raw, kind = _any_blocks("Q4_K", 4), GGML_TYPES["Q4_K"]
    out = np.zeros((6, COLUMNS), np.float32)
    assert dequantize(raw, kind, COLUMNS, out[1:5]).base is out
    assert np.array_equal(_bits(dequantize(raw, kind, COLUMNS)), _bits(out[1:5]))
    assert not out[[0, 5]].any()


def test_blocks_that_do_not_follow_each_other_are_read_too():
    raw, kind = _any_blocks("Q6_K", 8), GGML_TYPES["Q6_K"]
    assert np.array_equal(_bits(dequantize(raw, kind, COLUMNS)[::2]), _bits(dequantize(raw[::2], kind, COLUMNS)))


def test_without_kernels_or_ggml_numpy_reads(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("gguf")
    raw, kind = _any_blocks("Q4_K"), GGML_TYPES["Q4_K"]
    expected = _bits(dequantize(raw, kind, COLUMNS))
    monkeypatch.setattr(kernels, "library", lambda: None)
    monkeypatch.setattr(prebuilt, "libggml_back", lambda kind: None)
    assert np.array_equal(expected, _bits(dequantize(raw, kind, COLUMNS, backend=Backend.GGUF)))


def test_where_nothing_can_read_the_extra_is_named():
    with pytest.raises(UnsupportedError) as caught:
        dequantize(_any_blocks("IQ2_XXS"), GGML_TYPES["IQ2_XXS"], COLUMNS, backend=Backend.KERNELS)
    assert "adaptool[ggml]" in str(caught.value.hint)


@pytest.mark.parametrize(("columns", "shape"), [(COLUMNS, (2, 143)), (COLUMNS - 1, (2, 576)), (2 * COLUMNS, (2, 576))])
def test_bytes_that_are_not_such_rows_are_refused(columns: int, shape: tuple[int, int]):
    with pytest.raises(MismatchError, match="Q4_K"):
        dequantize(np.zeros(shape, np.uint8), GGML_TYPES["Q4_K"], columns)
