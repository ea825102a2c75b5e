"""Rotary settings read back, from ``rope.*`` keys and tensors of factors to what config.json has for them.

The spelling is the one every transformers release reads: ``rope_theta`` beside ``rope_scaling``, which transformers 5
makes ``rope_parameters`` of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptool.archs.gguf.keys import yarn_temperature
from adaptool.errors import FormatError, UnsupportedError
from adaptool.gguf.metadata import Metadata

LLAMA3_FACTORS = "rope_freqs.weight"
LONG_FACTORS, SHORT_FACTORS = "rope_factors_long.weight", "rope_factors_short.weight"
FACTOR_TENSORS = (LLAMA3_FACTORS, LONG_FACTORS, SHORT_FACTORS)
"""Tensors that come from the config, and go back into it."""

Factors = Mapping[str, NDArray[np.float32]]

DEFAULT_BASE = 10000.0
"""What llama.cpp takes where ``rope.freq_base`` is missing."""

USUAL_ORIGINAL = 8192
"""``original_max_position_embeddings`` of Llama 3.1 and its kin; files do not hold it."""

YARN = {
    "rope.scaling.yarn_ext_factor": "extrapolation_factor",
    "rope.scaling.yarn_attn_factor": "attention_factor",
    "rope.scaling.yarn_beta_fast": "beta_fast",
    "rope.scaling.yarn_beta_slow": "beta_slow",
}


def rope_settings(meta: Metadata, head_dim: int, factors: Factors) -> dict[str, Any]:
    """``rope_theta``, ``partial_rotary_factor`` and ``rope_scaling``, where there are any.

    Raises UnsupportedError for a scaling transformers has no settings for.
    """
    theta = meta.number(".rope.freq_base")
    settings: dict[str, Any] = {"rope_theta": DEFAULT_BASE if theta is None else theta}
    rotated = meta.count(".rope.dimension_count", least=1)
    if rotated is not None and rotated != head_dim:
        settings["partial_rotary_factor"] = rotated / head_dim
    scaling = _scaling(meta, settings["rope_theta"], factors)
    return settings | ({"rope_scaling": scaling} if scaling else {})


def _scaling(meta: Metadata, theta: float, factors: Factors) -> dict[str, Any] | None:
    kind = meta.text(".rope.scaling.type") or "none"
    factor = meta.number(".rope.scaling.factor") or meta.number(".rope.scale_linear")
    original = meta.count(".rope.scaling.original_context_length", least=1)
    if LONG_FACTORS in factors or SHORT_FACTORS in factors:
        return _longrope(meta, original, factors)
    if LLAMA3_FACTORS in factors:
        return _llama3(meta, theta, original, factors[LLAMA3_FACTORS])
    if kind == "none" or (kind == "linear" and factor in (None, 0, 1)):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "type": "linear", "factor": factor}
    if kind == "yarn" and factor:
        known = {name: meta.number(f".{key}") for key, name in YARN.items()}
        given = _temperature(meta, factor) | {name: value for name, value in known.items() if value is not None}
        length = {"original_max_position_embeddings": original} if original else {}
        return {"rope_type": "yarn", "type": "yarn", "factor": factor, **length, **given}
    raise UnsupportedError(f"{meta.path}: rotary scaling of the type {kind!r} without its factors cannot be read back")


def _temperature(meta: Metadata, factor: float) -> dict[str, float]:
    """The whole attention factor, where the file has only what llama.cpp's own is multiplied by."""
    ratio = meta.number(".rope.scaling.attn_factor")
    return {} if ratio is None else {"attention_factor": _tidy(ratio * yarn_temperature(factor))}


def _longrope(meta: Metadata, original: int | None, factors: Factors) -> dict[str, Any]:
    missing = [name for name in (LONG_FACTORS, SHORT_FACTORS) if name not in factors]
    if missing:
        raise FormatError(f"{meta.path}: no tensor {missing[0]}, where its pair is")
    lists = {
        f"{length}_factor": [float(str(value)) for value in factors[name].reshape(-1)]
        for length, name in (("short", SHORT_FACTORS), ("long", LONG_FACTORS))
    }
    known = {"original_max_position_embeddings": original} if original else {}
    return {"rope_type": "longrope", "type": "longrope", **known, **lists}


def _llama3(meta: Metadata, theta: float, original: int | None, factors: NDArray[np.float32]) -> dict[str, Any] | None:
    """Llama 3.1's four settings from the factors they were made into.

    Each wavelength between the two bounds has a factor 1 / ((1 − s) / F + s), where s = (original / wavelength − low) /
    (high − low): a line in 1 / wavelength. Only its slope and intercept can be known, so the original length is taken
    as the usual one (or the key's), and the two bounds follow.
    """
    stretch = factors.reshape(-1).astype(np.float64)
    if not np.isfinite(stretch).all() or (stretch <= 0).any():
        raise FormatError(f"{meta.path}: {LLAMA3_FACTORS} holds what no scaling can be")
    factor = float(str(factors.max()))
    if factor == 1:
        return None
    exponents = np.arange(len(stretch)) / len(stretch)
    frequency = theta**-exponents / (2 * math.pi)  # 1 / wavelength
    smooth = (1 / stretch - 1 / factor) / (1 - 1 / factor)
    between = (smooth > 1e-6) & (smooth < 1 - 1e-6)
    length = original or USUAL_ORIGINAL
    low, high = 1.0, 4.0
    if between.sum() >= 2:
        slope, intercept = np.polyfit(frequency[between], smooth[between], 1)
        width = length / slope
        low, high = _tidy(-intercept * width), _tidy((1 - intercept) * width)
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": length,
    }


def _tidy(value: float) -> float:
    """A number that was stored as float32 and fitted, as the round one it was."""
    return float(f"{value:.4g}")
