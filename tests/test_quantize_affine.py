"""Q2_K, Q4_K and Q5_K by the compiled quantisers: byte for byte ggml's, whatever the values."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from adaptool.tensors.dtypes import Array, Floats
from adaptool.tensors.ggml.quantize import Backend, backends, quantize
from adaptool.tensors.ggml.types import GGML_TYPES

KINDS = ("Q2_K", "Q4_K", "Q5_K")
SHAPE = (9, 768)  # 27 super-blocks: a batch is 16, and ends in the middle of a row

_RANDOM = np.random.default_rng(20240817)
_NORMAL = _RANDOM.standard_normal(SHAPE)
_UNIFORM = _RANDOM.random(SHAPE)
_RANDOM_SIGNS = np.sign(_NORMAL)


def _by_sub_block(size: int, low: int, high: int) -> Floats:
    """Normal values, each sub-block times another power of ten."""
    powers = _RANDOM.integers(low, high, (SHAPE[0], SHAPE[1] // size))
    return _NORMAL * 10.0 ** np.repeat(powers, size, axis=1)


VALUES: dict[str, Floats] = {
    "normal": _NORMAL * 0.02,
    "uniform": _UNIFORM,
    "all negative": -1 - _UNIFORM,
    "heavy-tailed": np.tan(np.pi * (_UNIFORM - 0.5)),
    "zero": np.zeros(SHAPE),
    "negative zero": -np.zeros(SHAPE),
    "constant": np.full(SHAPE, 0.3),
    "negative constant": np.full(SHAPE, -0.3),
    "two values": _RANDOM_SIGNS,
    "integers": np.round(_NORMAL * 4),
    "small": _NORMAL * 1e-7,
    "tiny": _NORMAL * 1e-20,
    "all but denormal": _NORMAL * 1e-37,
    "denormal": _NORMAL * 1e-41,
    "past f16": _NORMAL * 1e6,
    "huge": _NORMAL * 1e18,
    "squares overflow": _NORMAL * 1e30,
    "range overflows": np.clip(_NORMAL, -3, 3) * 1e38,
    "outliers": _NORMAL * np.where(_UNIFORM < 0.004, 10.0, 0.01),
    "sparse": _NORMAL * (_UNIFORM < 0.05),
    "sorted": np.sort(_NORMAL, axis=1),
    "narrow": 5 + _NORMAL * 1e-3,
    "narrow negative": -5 - _NORMAL * 1e-6,
    "scales differ": _by_sub_block(32, -9, 5),
    "scales differ wildly": _by_sub_block(16, -40, 35),
    "zeros between": _NORMAL * np.repeat(_RANDOM.integers(0, 2, (SHAPE[0], SHAPE[1] // 16)), 16, axis=1),
}

_COLUMNS = _RANDOM.standard_normal(SHAPE[1])
IMPORTANCE: dict[str, Floats | None] = {
    "no importance": None,
    "importance": np.exp(2 * _COLUMNS),
    "importance of ones": np.ones(SHAPE[1]),
    "importance with zeros": np.exp(_COLUMNS) * (_COLUMNS > 0),
    "importance of nothing": np.zeros(SHAPE[1]),
    "importance of some sub-blocks": np.repeat(_RANDOM.integers(0, 2, SHAPE[1] // 16), 16),
    "huge importance": np.exp(2 * _COLUMNS) * 1e30,
}


@pytest.fixture(autouse=True)
def _compiled() -> None:
    if Backend.KERNELS not in backends(GGML_TYPES["Q4_K"]):
        pytest.skip("the quantisers were not compiled here: python hatch_build.py")


@pytest.fixture
def libggml() -> None:
    if Backend.LIBGGML not in backends(GGML_TYPES["Q4_K"]):
        pytest.skip("needs libggml-python, the reference")


def _by(backend: Backend, values: Floats, name: str, importance: Floats | None) -> Array:
    weights = None if importance is None else importance.astype(np.float32)
    return quantize(np.ascontiguousarray(values, np.float32), GGML_TYPES[name], weights, backend=backend)


@pytest.mark.usefixtures("libggml")
@pytest.mark.parametrize("weights", IMPORTANCE)
@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("name", KINDS)
def test_bytes_are_ggml_s(name: str, values: str, weights: str) -> None:
    expected = _by(Backend.LIBGGML, VALUES[values], name, IMPORTANCE[weights])

    result = _by(Backend.KERNELS, VALUES[values], name, IMPORTANCE[weights])

    np.testing.assert_array_equal(result, expected)


@pytest.mark.usefixtures("libggml")
@pytest.mark.parametrize("weights", ["no importance", "importance"])
@pytest.mark.parametrize("shape", [(1, 256), (3, 256), (15, 256), (16, 256), (17, 256), (1, 768), (7, 512), (2, 4096)])
@pytest.mark.parametrize("name", KINDS)
def test_any_number_of_blocks(name: str, shape: tuple[int, int], weights: str) -> None:
    values = np.resize(VALUES["normal"], shape)
    importance = None if weights == "no importance" else np.resize(np.exp(_COLUMNS), shape[1])
    expected = _by(Backend.LIBGGML, values, name, importance)

    result = _by(Backend.KERNELS, values, name, importance)

    np.testing.assert_array_equal(result, expected)


def _without_chance(rows: int, columns: int) -> Floats:
    """Values with a peak at zero, the same wherever they are computed: exact in float32 until one rounding."""
    steps = np.arange(rows * columns, dtype=np.uint64) * np.uint64(2654435761) % np.uint64(1 << 32) >> np.uint64(12)
    uniform = steps.astype(np.float32) / np.float32(1 << 19) - np.float32(1)
    return (uniform * np.abs(uniform)).reshape(rows, columns)


DIGESTS = {
    ("Q2_K", False): "f3049421c33965c6",
    ("Q2_K", True): "63859ad6341d7917",
    ("Q4_K", False): "078a2396b3b70be1",
    ("Q4_K", True): "2ec03e2846d522c7",
    ("Q5_K", False): "5a32e236e6db634b",
    ("Q5_K", True): "9689cf195e4c06d7",
}
"""Of what ggml writes for ``_without_chance(5, 768)``, without importance and with."""


@pytest.mark.parametrize(("name", "weighted"), DIGESTS)
def test_digests(name: str, weighted: bool) -> None:
    importance = np.arange(768) % 7 / np.float32(4) if weighted else None

    blocks = _by(Backend.KERNELS, _without_chance(5, 768), name, importance)

    assert DIGESTS[name, weighted] == hashlib.sha256(blocks.tobytes()).hexdigest()[:16]
