"""Conversions between element types: exactly what PyTorch makes of the same bits, for all of them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptool.errors import UnsupportedError
from adaptool.tensors.dtypes import BF16, DTYPES, F16, F32, F64, dtype, narrow, widen
from adaptool.tensors.kernels import library

torch = pytest.importorskip("torch")

TORCH = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
FLOAT8 = {
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
}
PATTERNS = np.arange(1 << 16, dtype=np.uint16)
TIES = np.concatenate([(np.arange(1 << 16, dtype=np.uint32) << 16) + offset for offset in (0x7FFF, 0x8000, 0x8001)])
"""Around every halfway point between two bf16 numbers, as bits of float32."""


def torch_bits(values, kind):
    """What PyTorch rounds float values to, as bits."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(TORCH[kind.name]).view(torch.uint16).numpy()


def same(expected, result):
    """Equal bits; any NaN is as good as another."""
    expected, result = np.asarray(expected), np.asarray(result)
    return np.array_equal(expected.view(result.dtype), result) or np.array_equal(expected, result, equal_nan=True)


def same_bits(expected, result, kind):
    """Equal bits, where a NaN may be any NaN."""
    nan = {"BF16": 0x7F80, "F16": 0x7C00}[kind.name]
    are_nan = [(bits & 0x7FFF) > nan for bits in (expected, result)]
    return np.array_equal(*are_nan) and np.array_equal(expected[~are_nan[0]], result[~are_nan[0]])


@pytest.mark.parametrize("kind", [BF16, F16], ids=str)
def test_every_16_bit_pattern_widens_exactly(kind):
    expected = torch.from_numpy(PATTERNS).view(TORCH[kind.name]).float().numpy()
    assert same(expected, widen(PATTERNS, kind))


@pytest.mark.parametrize("kind", [BF16, F16], ids=str)
def test_every_16_bit_pattern_survives_a_round_trip(kind):
    assert same_bits(PATTERNS, narrow(widen(PATTERNS, kind), kind), kind)


@pytest.mark.parametrize("name", FLOAT8)
def test_every_8_bit_pattern_widens_exactly(name):
    codes = np.arange(256, dtype=np.uint8)
    expected = torch.from_numpy(codes).view(FLOAT8[name]).float().numpy()
    assert same(expected, widen(codes, DTYPES[name]))


@pytest.mark.parametrize("kind", [BF16, F16], ids=str)
def test_ties_round_to_even(kind):
    values = TIES.view(np.float32)
    assert same_bits(torch_bits(values, kind), narrow(values, kind), kind)
    finite = PATTERNS[(PATTERNS & 0x7FFF) < 0x7C00]
    halves = (widen(finite[:-1], F16) + widen(finite[1:], F16)) / 2  # halfway between f16 neighbours
    assert same_bits(torch_bits(halves, kind), narrow(halves, kind), kind)


@pytest.mark.parametrize("kind", [BF16, F16], ids=str)
def test_random_floats_round_as_in_torch(kind):
    bits = np.random.default_rng(0).integers(0, 1 << 32, 1 << 20, dtype=np.uint32)
    assert same_bits(torch_bits(bits.view(np.float32), kind), narrow(bits.view(np.float32), kind), kind)


def nearest(value, kind):
    """The nearest number of ``kind`` to a float64, ties to even, found among all of them."""
    finite = np.unique(widen(PATTERNS, kind)[np.isfinite(widen(PATTERNS, kind))].astype(np.float64))
    gap = finite[-1] - finite[-2]
    if abs(value) >= finite[-1] + gap / 2:
        return np.copysign(np.inf, value)
    at = np.searchsorted(finite, value)
    low, high = finite[max(0, at - 1)], finite[min(at, len(finite) - 1)]
    if value - low != high - value:
        return low if value - low < high - value else high
    even = narrow(np.array([low], np.float32), kind)[0] % 2 == 0
    return low if even else high


@pytest.mark.parametrize("kind", [BF16, F16], ids=str)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("nudge", [-(2.0**-45), 0, 2.0**-45])
@pytest.mark.parametrize("exponent", [-140, -133, -25, -14, 0, 7, 15, 100])
def test_float64_is_rounded_once(kind, sign, nudge, exponent):
    """Just beside a tie, float32 would round to the tie, and then to even: the wrong way half of the time."""
    half = 1 + 3 * 2.0 ** (-8 if kind is BF16 else -11)
    value = np.array([sign * half * (1 + nudge)]) * 2.0**exponent
    with np.errstate(over="ignore"):
        expected = np.array([nearest(value[0], kind)]).astype(np.float32)
    assert same(expected, widen(narrow(value, kind), kind))


def test_float64_extremes_round_to_bf16():
    values = np.array([1e300, -1e300, 1e-300, -1e-300, np.inf, -np.inf, 0.0, -0.0, 3.3961775292304957e38, 3.39e38])
    expected = np.array([np.inf, -np.inf, 0, -0.0, np.inf, -np.inf, 0, -0.0, np.inf, 3.3895313892515355e38], np.float32)
    result = widen(narrow(values, BF16), BF16)
    assert same(expected, result)
    assert np.array_equal(np.signbit(expected), np.signbit(result))
    assert narrow(np.array([np.nan]), BF16)[0] == 0x7FC0


@given(st.lists(st.floats(width=64), min_size=1))
def test_float64_bf16_is_a_nearest_number(values):
    array = np.array(values)
    result = widen(narrow(array, BF16), BF16).astype(np.float64)
    for value, rounded in zip(array[np.isfinite(array)], result[np.isfinite(array)], strict=True):
        assert rounded == nearest(value, BF16)


@given(st.lists(st.floats(width=32), min_size=1))
def test_float32_passes_through(values):
    array = np.array(values, np.float32)
    assert same(array, narrow(widen(array, F32), F32))
    assert same(array.astype(np.float64), narrow(array, F64))


def test_float64_to_float32_rounds_to_even():
    values = np.random.default_rng(0).normal(size=4096)
    assert same(torch.from_numpy(values).float().numpy(), narrow(values, F32))


@pytest.mark.parametrize("kind", [BF16, F16], ids=str)
def test_the_compiled_kernels_convert_alike(kind):
    kernels, name = library(), kind.name.lower()
    assert kernels is not None
    wide = np.empty(PATTERNS.size, np.float32)
    getattr(kernels, f"widen_{name}")(PATTERNS.ctypes.data, wide.ctypes.data, PATTERNS.size)
    assert same(widen(PATTERNS, kind), wide)
    values = np.concatenate([TIES, np.random.default_rng(1).integers(0, 1 << 32, 1 << 18, dtype=np.uint32)])
    values = values.view(np.float32)
    raw = np.empty(values.size, np.uint16)
    getattr(kernels, f"narrow_{name}")(values.ctypes.data, raw.ctypes.data, values.size)
    assert same_bits(narrow(values, kind), raw, kind)


def test_narrow_keeps_its_input():
    values = np.linspace(-1, 1, 100, dtype=np.float32)
    copy = values.copy()
    for kind in (BF16, F16):
        narrow(values, kind)
        narrow(values[::2], kind)
    assert np.array_equal(copy, values)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("bfloat16", BF16), ("torch.float16", F16), ("float32", F32), ("F64", F64), ("bf16", BF16), ("half", F16)],
)
def test_types_have_two_names(name, expected):
    assert expected is dtype(name)
    assert expected is dtype(expected.torch_name)


@pytest.mark.parametrize("name", ["", "float17", "torch.", "int4"])
def test_unknown_types_are_unsupported(name):
    with pytest.raises(UnsupportedError, match="unknown element type"):
        dtype(name)


@pytest.mark.parametrize("name", ["I32", "BOOL", "U8", "F4", "F6_E2M3"])
def test_what_holds_no_numbers_is_not_widened(name):
    with pytest.raises(UnsupportedError):
        widen(np.zeros(4, DTYPES[name].storage), DTYPES[name])
    assert not DTYPES[name].mergeable


def test_types_pickle_to_themselves():
    for kind in DTYPES.values():
        assert pickle.loads(pickle.dumps(kind)) is kind


def test_storage_is_as_wide_as_the_type():
    for kind in DTYPES.values():
        assert np.dtype(kind.storage).itemsize == kind.itemsize
