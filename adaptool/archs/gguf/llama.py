"""Llama and those who kept its shape: Mistral, Mixtral, SmolLM2, TinyLlama, Yi, Arcee, SmolLM3, Ministral 3, …

Their common mark in a GGUF: the rows of q and k are reordered, because ggml rotates neighbours where transformers
rotates halves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from adaptool.archs.gguf.decoders import (
    HEAD_LENGTHS,
    ROTARY_LENGTH,
    TEXT_MODEL,
    VISION,
    assumed,
    divided,
    llama3_factors,
)
from adaptool.archs.gguf.experts import FUSED_EXPERTS
from adaptool.archs.gguf.hparams import Hparams
from adaptool.archs.gguf.keys import COMMON, ROPE_ATTENTION_FACTOR, VOCAB_SIZE, main_rope
from adaptool.archs.gguf.placed import Placed, rotary_pairs
from adaptool.archs.gguf.spec import ArchSpec, Tensor, derived
from adaptool.tensors.ggml.values import f32


def pair_queries(tensor: Tensor, hp: Hparams) -> Sequence[Placed]:
    """q_proj: the rows of each head from halves to rotary pairs."""
    order = rotary_pairs(tensor.shape[0], hp.heads)
    return [Placed(tensor.name, tensor.shape, (tensor.source,), order)]


def pair_keys(tensor: Tensor, hp: Hparams) -> Sequence[Placed]:
    """k_proj: the same, with its own number of heads."""
    order = rotary_pairs(tensor.shape[0], hp.kv_heads)
    return [Placed(tensor.name, tensor.shape, (tensor.source,), order)]


ROTARY_RULES = {r"q_proj\.(?:weight|bias)": pair_queries, r"k_proj\.(?:weight|bias)": pair_keys}

LLAMA = ArchSpec(
    name="llama",
    architectures=("LlamaForCausalLM", "LLaMAForCausalLM", "LlamaModel", "IQuestCoderForCausalLM"),
    keys=(*COMMON, *HEAD_LENGTHS, VOCAB_SIZE, ROTARY_LENGTH),
    tokenizer="llama",
    rules=ROTARY_RULES,
    renames=TEXT_MODEL,
    extras=llama3_factors,
    defaults={**assumed(), "head_dim": divided},
    config={"hidden_act": "silu"},
)

MISTRAL = replace(
    LLAMA,
    architectures=("MistralForCausalLM", "MistralModel"),
    defaults={**assumed(context=131072), "num_key_value_heads": 8, "head_dim": divided},
    model_type="mistral",
)
"""Its sliding window has no key: llama.cpp attends to everything, which is the same up to the window's length."""

MIXTRAL = replace(
    LLAMA,
    architectures=("MixtralForCausalLM", "MixtralModel"),
    rules={**ROTARY_RULES, **FUSED_EXPERTS},
    renames={**TEXT_MODEL, r"\.block_sparse_moe\.experts\.(?=gate_up_proj|down_proj)": ".mlp.experts."},
    defaults={
        **assumed(theta=1e6, eps=1e-5, context=131072),
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    model_type="mixtral",
    marked_by="expert_count",
)

ARCEE = replace(
    LLAMA,
    name="arcee",
    architectures=("ArceeForCausalLM",),
    defaults={**assumed(eps=1e-5, context=4096), "head_dim": divided},
    config={"hidden_act": "relu2"},
)

SMOLLM3_UNROTATED = 4
"""llama.cpp leaves every fourth layer of SmolLM3 without rotation, whatever the config says."""


def _other_unrotated(hp: Hparams) -> str | None:
    every = hp.find("no_rope_layer_interval", default=SMOLLM3_UNROTATED)
    rotated = hp.find("no_rope_layers", default=None) or [int((layer + 1) % every != 0) for layer in range(hp.layers)]
    if [bool(one) for one in rotated] == [(layer + 1) % SMOLLM3_UNROTATED != 0 for layer in range(hp.layers)]:
        return None
    return f"no_rope_layers is {rotated}, and llama.cpp's smollm3 leaves out every fourth layer"


SMOLLM3 = replace(
    LLAMA,
    name="smollm3",
    architectures=("SmolLM3ForCausalLM",),
    defaults={**assumed(theta=2e6, context=32768), "num_key_value_heads": 4},
    limits=_other_unrotated,
)

MISTRAL3 = replace(
    LLAMA,
    name="mistral3",
    architectures=("Ministral3ForCausalLM", "Mistral3ForConditionalGeneration"),
    keys=(
        *(key for key in LLAMA.keys if key is not ROPE_ATTENTION_FACTOR),  # the multiplier below says it
        derived("rope.scaling.yarn_log_multiplier", f32, lambda hp: main_rope(hp).get("mscale_all_dim")),
        derived("attention.temperature_scale", f32, lambda hp: main_rope(hp).get("llama_4_scaling_beta")),
    ),
    dropped=VISION,
    defaults={**assumed(eps=1e-5, context=262144), "num_key_value_heads": 8, "head_dim": divided},
    model_type="ministral3",
)
"""Ministral 3, and the text model of Mistral Small 3.1 and its like."""

TABLES = (LLAMA, MISTRAL, MIXTRAL, ARCEE, SMOLLM3, MISTRAL3)
