"""OLMo 1, 2 and 3, and OLMoE."""

from __future__ import annotations

from dataclasses import replace

from adaptool.archs.gguf.decoders import TEXT_MODEL, assumed
from adaptool.archs.gguf.experts import FUSED_EXPERTS
from adaptool.archs.gguf.hparams import Hparams
from adaptool.archs.gguf.keys import COMMON, ROPE_BASE_SWA, SLIDING_WINDOW, main_rope
from adaptool.archs.gguf.layers import SLIDING_PATTERN
from adaptool.archs.gguf.llama import ROTARY_RULES
from adaptool.archs.gguf.spec import ArchSpec, derived, setting
from adaptool.tensors.ggml.values import f32

OLMO2 = ArchSpec(
    name="olmo2",
    architectures=("Olmo2ForCausalLM",),
    keys=COMMON,
    tokenizer="bpe",
    renames=TEXT_MODEL,
    defaults=assumed(eps=1e-5),
    config={"hidden_act": "silu"},
)

WINDOW_ROPE_BASE = derived(
    "rope.freq_base_swa",
    f32,
    lambda hp: (hp.rope.get("sliding_attention") or main_rope(hp)).get("rope_theta"),
)
"""Layers with a window rotate by the same base, unscaled."""

OLMO3 = replace(
    OLMO2,
    architectures=("Olmo3ForCausalLM",),
    keys=(*(WINDOW_ROPE_BASE if key is ROPE_BASE_SWA else key for key in COMMON), SLIDING_WINDOW, SLIDING_PATTERN),
    defaults={**assumed(theta=500000.0, eps=1e-5), "sliding_window": 4096, "sliding_window_pattern": 4},
    model_type="olmo3",
    marked_by="attention.sliding_window",
)

OLMO = replace(
    OLMO2,
    name="olmo",
    architectures=("OlmoForCausalLM",),
    keys=(
        *COMMON,
        derived("attention.layer_norm_epsilon", f32, lambda hp: 1e-5),
        setting("attention.clamp_kqv", f32, "clip_qkv"),
    ),
    rules=ROTARY_RULES,
    defaults={name: value for name, value in assumed().items() if name != "rms_norm_eps"},
)
"""Its norms have no weights, and an epsilon that no config names."""


def _grouped(hp: Hparams) -> str | None:
    grouped = hp.kv_heads != hp.heads
    return f"num_key_value_heads is {hp.kv_heads}: llama.cpp's olmoe has as many as query heads" if grouped else None


OLMOE = replace(
    OLMO2,
    name="olmoe",
    architectures=("OlmoeForCausalLM",),
    rules=FUSED_EXPERTS,
    defaults={**assumed(eps=1e-5, context=4096), "num_experts": 64, "num_experts_per_tok": 8},
    config={"hidden_act": "silu", "norm_topk_prob": False},
    limits=_grouped,
)

TABLES = (OLMO2, OLMO3, OLMO, OLMOE)
