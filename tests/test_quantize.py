"""Quantising rows: the same bytes whoever does it, and a clear word where nobody can."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from adaptool.errors import FormatError, MismatchError, UnsupportedError
from adaptool.tensors.dtypes import Array, Floats
from adaptool.tensors.ggml import kernels, prebuilt
from adaptool.tensors.ggml.quantize import Backend, all_finite, backends, quantize
from adaptool.tensors.ggml.types import GGML_TYPES

ELSEWHERE = ("Q2_K", "Q4_K", "Q5_K")  # test_quantize_affine.py
KINDS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q3_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4")
IN_NUMPY = ("Q8_0", "TQ1_0", "TQ2_0")
TERNARY = ("TQ1_0", "TQ2_0")

# Rows of other widths end groups of 32 lanes in their middle; two super-blocks are one such group.
SHAPES = {256: [(1, 256), (5, 768)], 32: [(1, 32), (7, 96), (9, 576)]}

_RANDOM = np.random.default_rng(7)
_ROWS = 16
_NORMAL = _RANDOM.standard_normal((_ROWS, 768))
_UNIFORM = _RANDOM.random((_ROWS, 768))


def _scaled(low: int, high: int) -> Floats:
    """Normal values, each 16 of them times another power of ten."""
    return _NORMAL * 10.0 ** np.repeat(_RANDOM.integers(low, high, (_ROWS, 48)), 16, axis=1)


VALUES: dict[str, Floats] = {
    "normal": _NORMAL * 0.02,
    "heavy-tailed": np.tan(np.pi * (_UNIFORM - 0.5)),
    "constant": np.full((_ROWS, 768), 0.37),
    "negative constant": np.full((_ROWS, 768), -1.5),
    "zero": np.zeros((_ROWS, 768)),
    "zeros of both signs": np.where(_UNIFORM < 0.5, 0.0, -0.0),
    "at the threshold of nothing": _NORMAL * 1e-15,
    "below it": _NORMAL * 1e-20,
    "past f16's small end": _NORMAL * 1e-7,
    "denormal": _NORMAL * 1e-40,
    "past f16's large end": _NORMAL * 1e7,
    "cubes overflow": _NORMAL * 1e13,
    "squares overflow": _NORMAL * 1e30,
    "ranges overflow": np.sign(_NORMAL) * 3.4e38,
    "outliers": _NORMAL * np.where(_UNIFORM < 0.01, 1000, 0.01),
    "sparse": np.where(_UNIFORM < 0.05, _NORMAL, 0),
    "powers of ten": _NORMAL * 10.0 ** _RANDOM.integers(-30, 30, (_ROWS, 768)),
    "scales differ": _scaled(-12, 6),
    "scales differ wildly": _scaled(-40, 36),
    "integers": np.round(_NORMAL * 4),
    "ties of sign": np.where(_UNIFORM < 0.5, 1.0, -1.0),
    "ramp": np.linspace(-1, 1, _ROWS * 768).reshape(_ROWS, 768),
    "positive": _UNIFORM + 0.5,
    "halves": np.round(_NORMAL * 8) / 2,
}

_WEIGHTS = _RANDOM.random(768) ** 4
IMPORTANCE: dict[str, Floats | None] = {
    "no importance": None,
    "importance": _WEIGHTS,
    "zeros in it": np.where(_RANDOM.random(768) < 0.3, 0, _WEIGHTS),
    "all zeros": np.zeros(768),
    "huge": _WEIGHTS * 1e20,
}


def _rows(values: Floats, rows: int, columns: int) -> Array:
    flat = np.clip(values, -3.4e38, 3.4e38).astype(np.float32).reshape(-1)
    return np.ascontiguousarray(flat[: rows * columns].reshape(rows, columns))


def _needs(backend: Backend, kind: str, *, weighted: bool = False) -> None:
    if backend not in backends(GGML_TYPES[kind], weighted=weighted):
        pytest.skip(f"{backend} is not here, or does not quantise to {kind}")


@pytest.mark.parametrize("importance", IMPORTANCE.values(), ids=IMPORTANCE.keys())
@pytest.mark.parametrize("name", KINDS)
def test_the_compiled_kernels_make_ggmls_bytes(name: str, importance: Floats | None):
    kind = GGML_TYPES[name]
    _needs(Backend.KERNELS, name)
    _needs(Backend.LIBGGML, name)
    different = []
    for rows, columns in SHAPES[256] + (SHAPES[32] if kind.block == 32 else []):
        weights = None if importance is None else importance[:columns].astype(np.float32)
        for label, values in VALUES.items():
            x = _rows(values, rows, columns)
            expected = quantize(x, kind, weights, backend=Backend.LIBGGML)
            if not np.array_equal(expected, quantize(x, kind, weights, backend=Backend.KERNELS)):
                different.append((label, rows, columns))
    assert not different


@pytest.mark.parametrize("name", [*KINDS, *ELSEWHERE, *TERNARY])
def test_whoever_quantises_the_bytes_are_the_same(name: str):
    kind = GGML_TYPES[name]
    weights = _WEIGHTS.astype(np.float32)
    for weighted in (False, True):
        for label in ("normal", "heavy-tailed", "zero", "outliers", "integers"):
            x = _rows(VALUES[label], 5, 768)
            made = {
                backend: quantize(x, kind, weights if weighted else None, backend=backend)
                for backend in backends(kind, weighted=weighted)
            }
            first = next(iter(made.values()))
            assert not [backend for backend, blocks in made.items() if not np.array_equal(first, blocks)], label


@pytest.mark.parametrize("name", IN_NUMPY)
def test_gguf_rounds_as_ggml_does_where_it_is_let_to(name: str):
    _needs(Backend.GGUF, name)
    _needs(Backend.LIBGGML, name)
    for label, values in VALUES.items():
        x = _rows(values, _ROWS, 768)
        with np.errstate(all="ignore"):
            made = quantize(x, GGML_TYPES[name], backend=Backend.GGUF)
        assert np.array_equal(quantize(x, GGML_TYPES[name], backend=Backend.LIBGGML), made), label


@pytest.mark.parametrize("steps", range(-3, 4))
def test_an_mxfp4_exponent_next_to_a_power_of_two_is_ggmls(steps: int):
    _needs(Backend.KERNELS, "MXFP4")
    _needs(Backend.LIBGGML, "MXFP4")
    powers = np.ldexp(np.float32(1), np.arange(-149, 128)).astype(np.float32)
    peaks = (powers.view(np.int32) + steps).clip(1).view(np.float32)
    x = np.ascontiguousarray(peaks[:, None] * np.linspace(-1, 1, 32, dtype=np.float32))
    kind = GGML_TYPES["MXFP4"]
    assert np.array_equal(quantize(x, kind, backend=Backend.LIBGGML), quantize(x, kind, backend=Backend.KERNELS))


@pytest.mark.parametrize("name", ["Q4_0", "Q5_0", "Q8_0", "IQ4_NL"])
def test_elements_midway_between_two_integers_round_as_ggmls_do(name: str):
    _needs(Backend.KERNELS, name)
    _needs(Backend.LIBGGML, name)
    halves = np.arange(-127, 128, dtype=np.float32) / 2
    near = (halves.view(np.int32)[:, None] + np.arange(-8, 9)).reshape(-1).astype(np.int32).view(np.float32)
    x = np.zeros((len(near), 32), np.float32)
    x[:, 0] = {"Q4_0": -8, "Q5_0": -16, "Q8_0": 127, "IQ4_NL": -127}[name]  # then the scale is 1
    x[:, 5] = np.where(np.abs(near) < np.abs(x[:, 0]), near, 0)
    kind = GGML_TYPES[name]
    assert np.array_equal(quantize(x, kind, backend=Backend.LIBGGML), quantize(x, kind, backend=Backend.KERNELS))


@pytest.mark.parametrize("name", ["Q6_K", "Q8_0", "Q5_0", "IQ4_XS"])
def test_threads_do_not_disturb_each_other(name: str):
    kind = GGML_TYPES[name]
    weights = _WEIGHTS.astype(np.float32)
    x = _rows(VALUES["heavy-tailed"], _ROWS, 768)
    expected = quantize(x, kind, weights)
    with ThreadPoolExecutor(4) as threads:
        parts = list(threads.map(lambda row: quantize(x[row : row + 1], kind, weights), list(range(_ROWS)) * 4))
    assert np.array_equal(np.concatenate([expected] * 4), np.concatenate(parts))


def test_blocks_are_written_where_the_caller_says():
    kind = GGML_TYPES["Q6_K"]
    x = _rows(VALUES["normal"], 4, 768)
    out = np.zeros((6, kind.row_nbytes(768)), np.uint8)
    assert quantize(x, kind, out=out[1:5]).base is out
    assert np.array_equal(quantize(x, kind), out[1:5])
    assert not out[0].any()
    assert not out[5].any()


def test_no_rows_are_no_blocks():
    blocks = quantize(np.empty((0, 256), np.float32), GGML_TYPES["Q6_K"])
    assert blocks.shape == (0, 210)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_is_refused(bad: float, compiled: bool, monkeypatch: pytest.MonkeyPatch):
    if not compiled:
        monkeypatch.setattr(kernels, "library", lambda: None)
        monkeypatch.setattr("adaptool.tensors.ggml.quantize.library", lambda: None)
    x = _rows(VALUES["normal"], 4, 768)
    assert all_finite(x)
    x[3, 767] = bad
    with pytest.raises(FormatError, match="NaN or Inf"):
        quantize(x, GGML_TYPES["Q8_0"])
    with pytest.raises(FormatError, match="importance matrix holds NaN or Inf"):
        quantize(x[:3], GGML_TYPES["Q8_0"], x[3])


def test_without_compiled_kernels_a_prebuilt_ggml_serves(monkeypatch: pytest.MonkeyPatch):
    _needs(Backend.LIBGGML, "Q6_K")
    x = _rows(VALUES["normal"], 4, 768)
    expected = quantize(x, GGML_TYPES["Q6_K"])
    monkeypatch.setattr(kernels, "library", lambda: None)
    assert Backend.KERNELS not in backends(GGML_TYPES["Q6_K"])
    assert np.array_equal(expected, quantize(x, GGML_TYPES["Q6_K"]))


def test_where_nothing_can_quantise_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernels, "library", lambda: None)
    monkeypatch.setattr(prebuilt, "_ggml", lambda: None)
    monkeypatch.setattr(prebuilt, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedError) as caught:
        quantize(_rows(VALUES["normal"], 1, 256), GGML_TYPES["Q6_K"])
    assert "Q6_K" in caught.value.message
    assert "adaptool[ggml]" in str(caught.value.hint)


@pytest.mark.parametrize("name", sorted(prebuilt.IMPORTANCE_REQUIRED))
def test_the_narrowest_types_ask_for_importance(name: str):
    _needs(Backend.LIBGGML, name)
    with pytest.raises(UnsupportedError, match="without an importance matrix"):
        quantize(_rows(VALUES["normal"], 1, 256), GGML_TYPES[name])


@pytest.mark.parametrize("name", sorted(prebuilt.GRIDS))
def test_rows_on_which_ggml_would_end_the_process_are_refused(name: str):
    _needs(Backend.LIBGGML, name)
    weights = np.ones(256, np.float32)
    with pytest.raises(FormatError, match="too large for"):
        quantize(_rows(VALUES["squares overflow"], 1, 256), GGML_TYPES[name], weights)
    with pytest.raises(FormatError, match="weights past"):
        quantize(_rows(VALUES["normal"], 1, 256), GGML_TYPES[name], weights * np.float32(1e20))


def test_a_grid_type_is_quantised_by_any_ggml():
    kind = GGML_TYPES["IQ3_XXS"]
    x, weights = _rows(VALUES["normal"], 2, 256), _WEIGHTS[:256].astype(np.float32)
    made = [quantize(x, kind, weights, backend=backend) for backend in backends(kind, weighted=True)]
    if not made:
        pytest.skip("no prebuilt ggml is here")
    assert all(np.array_equal(made[0], other) for other in made)


@pytest.mark.parametrize(
    ("values", "importance", "words"),
    [
        (np.zeros((2, 250), np.float32), None, "blocks of 256"),
        (np.zeros((2, 256), np.float64), None, "C-contiguous float32"),
        (np.zeros((256, 2), np.float32).T, None, "C-contiguous float32"),
        (np.zeros(256, np.float32), None, "C-contiguous float32"),
        (np.zeros((2, 256), np.float32), np.zeros(255, np.float32), "importance of shape"),
    ],
)
def test_rows_that_do_not_fit_are_refused(values: Floats, importance: Floats | None, words: str):
    with pytest.raises(MismatchError, match=words):
        quantize(values, GGML_TYPES["Q6_K"], importance)


def test_an_output_that_does_not_fit_is_refused():
    with pytest.raises(MismatchError, match="blocks go to"):
        quantize(np.zeros((2, 256), np.float32), GGML_TYPES["Q6_K"], out=np.empty((2, 209), np.uint8))


@pytest.mark.parametrize("name", ["Q8_1", "Q8_K"])
def test_types_of_activations_are_not_written(name: str):
    with pytest.raises(UnsupportedError, match=name):
        quantize(np.zeros((1, 256), np.float32), GGML_TYPES[name])
