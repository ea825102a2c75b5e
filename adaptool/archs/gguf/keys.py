"""The metadata keys most architectures share, in the order converters write them.

Names and types are those of the GGUF specification; what each architecture's runtime reads decides which it lists.
"""

from __future__ import annotations

import math
from typing import Any

from adaptool.archs.gguf.hparams import Hparams
from adaptool.archs.gguf.pooling import NUMBERS
from adaptool.archs.gguf.spec import Key, derived, setting
from adaptool.errors import UnsupportedError
from adaptool.tensors.ggml.values import boolean, f32, text, u32

BLOCKS = derived("block_count", u32, lambda hp: hp.layers, "num_hidden_layers")
CONTEXT = setting(
    "context_length", u32, "max_position_embeddings", "n_ctx", "n_positions", "max_length", "max_sequence_length",
    "model_max_length",
)  # fmt: skip
EMBEDDING = derived("embedding_length", u32, lambda hp: hp.hidden, "hidden_size")
FEED_FORWARD = setting("feed_forward_length", u32, "intermediate_size", "n_inner", "hidden_dim")
HEADS = derived("attention.head_count", u32, lambda hp: hp.heads, "num_attention_heads")
KV_HEADS = setting("attention.head_count_kv", u32, "num_key_value_heads", "n_kv_heads")
RMS_EPS = setting("attention.layer_norm_rms_epsilon", f32, "rms_norm_eps", "norm_eps")
NORM_EPS = setting("attention.layer_norm_epsilon", f32, "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")
EXPERTS = setting("expert_count", u32, "num_local_experts", "num_experts", "n_routed_experts")
EXPERTS_USED = setting("expert_used_count", u32, "num_experts_per_tok", "num_experts_per_token", "top_k_experts")
KEY_LENGTH = derived("attention.key_length", u32, lambda hp: hp.head_dim, "head_dim")
VALUE_LENGTH = derived("attention.value_length", u32, lambda hp: hp.head_dim, "head_dim")
SLIDING_WINDOW = setting("attention.sliding_window", u32, "sliding_window")
VOCAB_SIZE = setting("vocab_size", u32, "vocab_size")
CAUSAL = derived("attention.causal", boolean, lambda hp: False if hp.find("is_causal", default=None) is False else None)
POOLING = derived("pooling_type", u32, lambda hp: NUMBERS[hp.pooling] if hp.pooling else None)
"""How embeddings of tokens become one of a text."""


def main_rope(hp: Hparams) -> Any:
    """The rotary settings of the layers that attend to everything."""
    return hp.rope.get("full_attention", hp.rope)


SCALING_TYPES = {"linear": "linear", "yarn": "yarn", "longrope": "longrope", "su": "longrope"}
"""``rope_type`` → what ``rope.scaling.type`` calls it."""
SILENT_SCALINGS = ("default", "llama3", "dynamic")
"""Nothing to say: no scaling, one that becomes a tensor of factors, or one that begins beyond the context length."""


def _scaling(hp: Hparams) -> str | None:
    rope = main_rope(hp)
    kind = str(rope.get("rope_type") or "default").lower()
    if kind in SILENT_SCALINGS or (kind in ("linear", "yarn") and rope.get("factor") is None):
        return None
    if kind not in SCALING_TYPES:
        raise UnsupportedError(f"config.json: rope_type {kind!r} is not known to llama.cpp")
    return SCALING_TYPES[kind]


def _when(kinds: tuple[str, ...], *names: str) -> Any:
    def value(hp: Hparams) -> Any:
        if _scaling(hp) not in kinds:
            return None
        return next((main_rope(hp)[name] for name in names if main_rope(hp).get(name) is not None), None)

    return value


UNIT_TOLERANCE = 1e-4
"""Attention factors this near to what llama.cpp computes by itself are that, written out in a few digits."""


def yarn_temperature(factor: float, mscale: float = 1.0) -> float:
    """YaRN's temperature. Source: YaRN (arXiv 2309.00071), equation 22."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _attention_factor(hp: Hparams) -> float | None:
    """By what llama.cpp's own attention factor must be multiplied; it does not read ``yarn_attn_factor``."""
    rope = main_rope(hp)
    if _scaling(hp) != "yarn":
        return None
    factor, mscale, every = float(rope["factor"]), rope.get("mscale"), rope.get("mscale_all_dim")
    wanted = rope.get("attention_factor")
    if wanted is None:
        wanted = (
            yarn_temperature(factor, mscale) / yarn_temperature(factor, every)
            if mscale and every
            else yarn_temperature(factor)
        )
    ratio = float(wanted) / yarn_temperature(factor)
    return ratio if abs(ratio - 1) > UNIT_TOLERANCE else None


ROPE_ATTENTION_FACTOR = derived("rope.scaling.attn_factor", f32, _attention_factor)

ROPE_SCALING: tuple[Key, ...] = (
    derived("rope.scaling.type", text, _scaling),
    derived("rope.scaling.factor", f32, _when(("linear", "yarn"), "factor")),
    derived("rope.scaling.original_context_length", u32, _when(("yarn",), "original_max_position_embeddings")),
    derived("rope.scaling.yarn_ext_factor", f32, _when(("yarn",), "extrapolation_factor")),
    derived("rope.scaling.yarn_attn_factor", f32, _when(("yarn",), "attention_factor", "attn_factor")),
    derived("rope.scaling.yarn_beta_fast", f32, _when(("yarn",), "beta_fast")),
    derived("rope.scaling.yarn_beta_slow", f32, _when(("yarn",), "beta_slow")),
    ROPE_ATTENTION_FACTOR,
)
ROPE_BASE = derived("rope.freq_base", f32, lambda hp: main_rope(hp).get("rope_theta"), "rope_theta")


def _unusual_base(hp: Hparams) -> float | None:
    theta = main_rope(hp).get("rope_theta")
    return None if theta == RUNTIME_ROPE_BASE else theta


RUNTIME_ROPE_BASE = 10000.0
"""What llama.cpp takes where no key says otherwise."""
ROPE_BASE_UNUSUAL = derived("rope.freq_base", f32, _unusual_base, "rope_theta")
"""For architectures whose converters leave the base out."""
ROPE_BASE_SWA = derived(
    "rope.freq_base_swa", f32, lambda hp: (hp.rope.get("sliding_attention") or {}).get("rope_theta")
)

COMMON: tuple[Key, ...] = (
    BLOCKS, CONTEXT, EMBEDDING, FEED_FORWARD, HEADS, KV_HEADS, CAUSAL, *ROPE_SCALING, ROPE_BASE, ROPE_BASE_SWA,
    RMS_EPS, NORM_EPS, EXPERTS, EXPERTS_USED,
)  # fmt: skip
"""What nearly every architecture has; those whose config class knows ``head_dim`` add the two lengths."""
