"""Phi 2, and Phi 3 to 4: partly rotated heads, and a pair of rotary factors for short and long contexts."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from adaptool.archs.gguf.decoders import TEXT_MODEL, every_head
from adaptool.archs.gguf.hparams import Hparams
from adaptool.archs.gguf.keys import (
    BLOCKS,
    CONTEXT,
    EMBEDDING,
    FEED_FORWARD,
    HEADS,
    NORM_EPS,
    RMS_EPS,
    ROPE_BASE,
    ROPE_BASE_UNUSUAL,
    ROPE_SCALING,
    main_rope,
)
from adaptool.archs.gguf.spec import ArchSpec, derived, setting
from adaptool.errors import FormatError
from adaptool.tensors.ggml.values import boolean, f32, u32

LONGROPE = ("longrope", "su", "yarn")
"""Names Phi 3's scaling has had. Phi-3's "yarn" has factors per frequency too, and another temperature."""


def _rotated(hp: Hparams) -> int:
    return int(main_rope(hp).get("partial_rotary_factor", 1.0) * hp.hidden) // hp.heads


def _original_context(hp: Hparams) -> int:
    rope = hp.find("rope_parameters", "rope_scaling", default=None) or {}
    return int(rope.get("original_max_position_embeddings") or hp.count("original_max_position_embeddings"))


def _kind(hp: Hparams) -> str:
    return str(main_rope(hp).get("rope_type") or "default").lower()


def _other_scaling(hp: Hparams) -> str | None:
    rope = main_rope(hp)
    if _kind(hp) == "default" or (_kind(hp) in LONGROPE and rope.get("long_factor")):
        return None
    return f"rope_type {_kind(hp)!r}: llama.cpp's phi3 knows long and short factors (longrope) only"


def _attention_factor(hp: Hparams) -> float | None:
    """The temperature of attention beyond the length trained with. Source: LongRoPE (arXiv 2402.13753)."""
    if _kind(hp) == "default":
        return None
    if (given := main_rope(hp).get("attention_factor")) is not None:
        return float(given)
    original = _original_context(hp)
    scale = hp.count("max_position_embeddings") / original
    if scale <= 1:
        return 1.0
    return 0.1 * math.log(scale) + 1 if _kind(hp) == "yarn" else math.sqrt(1 + math.log(scale) / math.log(original))


def _factors(hp: Hparams) -> Mapping[str, NDArray[np.float32]]:
    """``rope_factors_long`` and ``rope_factors_short``: by how much each frequency is stretched."""
    if _kind(hp) == "default":
        return {}
    factors = {length: main_rope(hp).get(f"{length}_factor") for length in ("long", "short")}
    for length, values in factors.items():
        found = len(values) if isinstance(values, list) else 0
        if found != _rotated(hp) // 2:
            raise FormatError(f"config.json: {length}_factor has {found} numbers, and {_rotated(hp) // 2} pairs rotate")
    return {f"rope_factors_{length}.weight": np.array(values, np.float32) for length, values in factors.items()}


PHI3 = ArchSpec(
    name="phi3",
    architectures=("Phi3ForCausalLM",),
    keys=(
        derived("rope.scaling.attn_factor", f32, _attention_factor),
        CONTEXT,
        derived(
            "rope.scaling.original_context_length", u32, _original_context, "original_max_position_embeddings"
        ),
        EMBEDDING, FEED_FORWARD, BLOCKS, HEADS,
        setting("attention.head_count_kv", u32, "num_key_value_heads"),
        RMS_EPS,
        derived("rope.dimension_count", u32, _rotated),
        ROPE_BASE,
        derived("attention.sliding_window", u32, lambda hp: hp.find("sliding_window", default=0), "sliding_window"),
    ),
    tokenizer="phi3",
    renames=TEXT_MODEL,
    extras=_factors,
    defaults={
        "num_key_value_heads": every_head,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
    },
    config={"hidden_act": "silu"},
    limits=_other_scaling,
)  # fmt: skip
"""A window of 0 tells Phi 4; llama.cpp reads the window and does not use it."""


def _half_rotated(hp: Hparams) -> int:
    return int(main_rope(hp).get("partial_rotary_factor", 0.5) * hp.hidden) // hp.heads


def _grouped(hp: Hparams) -> str | None:
    grouped = hp.kv_heads != hp.heads
    return f"num_key_value_heads is {hp.kv_heads}: llama.cpp's phi2 has as many as query heads" if grouped else None


PHI2 = ArchSpec(
    name="phi2",
    architectures=("PhiForCausalLM",),
    keys=(
        CONTEXT, EMBEDDING,
        setting("feed_forward_length", u32, "intermediate_size", "n_inner"),
        BLOCKS, HEADS,
        derived("attention.head_count_kv", u32, lambda hp: hp.heads, "num_key_value_heads"),
        NORM_EPS,
        derived("rope.dimension_count", u32, _half_rotated),
        *ROPE_SCALING,
        ROPE_BASE_UNUSUAL,
        derived("tokenizer.ggml.add_bos_token", boolean, lambda hp: False),
    ),
    tokenizer="bpe",
    renames=TEXT_MODEL,
    defaults={
        "num_key_value_heads": every_head,
        "intermediate_size": lambda hp: 4 * hp.hidden,
        "max_position_embeddings": 2048,
        "layer_norm_eps": 1e-5,
        "rope_theta": 10000.0,
    },
    model_type="phi",
    config={"hidden_act": "gelu_new", "qk_layernorm": False},
    limits=_grouped,
)  # fmt: skip

TABLES = (PHI2, PHI3)
