"""Qwen 2 and 3, dense and mixtures of experts: names only, for ggml rotates them as transformers does."""

from __future__ import annotations

from dataclasses import replace

from adaptool.archs.gguf.decoders import HEAD_LENGTHS, TEXT_MODEL, assumed
from adaptool.archs.gguf.experts import EXPERT_FEED_FORWARD, FUSED_EXPERTS
from adaptool.archs.gguf.keys import COMMON
from adaptool.archs.gguf.spec import ArchSpec, setting
from adaptool.tensors.ggml.values import u32

QWEN2 = ArchSpec(
    name="qwen2",
    architectures=("Qwen2ForCausalLM", "Qwen2Model"),
    keys=(*COMMON, *HEAD_LENGTHS),
    tokenizer="spm",
    renames=TEXT_MODEL,
    defaults={**assumed(context=32768), "num_key_value_heads": 32},
    config={"hidden_act": "silu"},
)

QWEN3 = replace(
    QWEN2, name="qwen3", architectures=("Qwen3ForCausalLM", "Qwen3Model"), defaults={**QWEN2.defaults, "head_dim": 128}
)

EVERY_LAYER_SPARSE = {"decoder_sparse_step": 1, "mlp_only_layers": []}
"""llama.cpp wants experts in every layer."""

QWEN2MOE = replace(
    QWEN2,
    name="qwen2moe",
    architectures=("Qwen2MoeForCausalLM",),
    keys=(
        *QWEN2.keys,
        EXPERT_FEED_FORWARD,
        setting("expert_shared_feed_forward_length", u32, "shared_expert_intermediate_size"),
    ),
    tokenizer="bpe",
    rules=FUSED_EXPERTS,
    defaults={
        **assumed(context=32768),
        "num_key_value_heads": 16,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
    },
    config={**QWEN2.config, **EVERY_LAYER_SPARSE, "norm_topk_prob": False},
    model_type="qwen2_moe",
)

QWEN3MOE = replace(
    QWEN2,
    name="qwen3moe",
    architectures=("Qwen3MoeForCausalLM",),
    keys=(*QWEN2.keys, EXPERT_FEED_FORWARD),
    tokenizer="bpe",
    rules=FUSED_EXPERTS,
    defaults={
        **assumed(context=32768),
        "num_key_value_heads": 4,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "norm_topk_prob": False,
    },
    config={**QWEN2.config, **EVERY_LAYER_SPARSE, "norm_topk_prob": True},
    tolerated=("norm_topk_prob",),
    model_type="qwen3_moe",
)

TABLES = (QWEN2, QWEN3, QWEN2MOE, QWEN3MOE)
