"""Granite: Llama with four scales; its mixture of experts keeps gate and up in one matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from adaptool.archs.gguf.decoders import ROTARY_LENGTH, assumed, divided
from adaptool.archs.gguf.experts import halves
from adaptool.archs.gguf.hparams import Hparams
from adaptool.archs.gguf.keys import COMMON, VOCAB_SIZE
from adaptool.archs.gguf.llama import LLAMA, ROTARY_RULES
from adaptool.archs.gguf.placed import Placed
from adaptool.archs.gguf.spec import Tensor, derived, setting
from adaptool.tensors.ggml.values import f32, u32


def _unusual_head_dim(hp: Hparams) -> int | None:
    return hp.head_dim if hp.head_dim != divided(hp) else None


HEAD_LENGTHS = (
    derived("attention.key_length", u32, _unusual_head_dim, "head_dim"),
    derived("attention.value_length", u32, _unusual_head_dim, "head_dim"),
)
SCALES = (
    setting("attention.scale", f32, "attention_multiplier"),
    setting("embedding_scale", f32, "embedding_multiplier"),
    setting("residual_scale", f32, "residual_multiplier"),
    setting("logit_scale", f32, "logits_scaling"),
)

GRANITE = replace(
    LLAMA,
    name="granite",
    architectures=("GraniteForCausalLM",),
    keys=(*COMMON, *HEAD_LENGTHS, VOCAB_SIZE, ROTARY_LENGTH, *SCALES),
    defaults={
        **assumed(),
        "attention_multiplier": 1.0,
        "embedding_multiplier": 1.0,
        "residual_multiplier": 1.0,
        "logits_scaling": 1.0,
    },
)


def _split_experts(tensor: Tensor, hp: Hparams) -> Sequence[Placed]:
    """block_sparse_moe.input_linear, or experts.gate_up_proj: (e, 2·i, h) → gate and up."""
    block = tensor.name.partition(".block_sparse_moe.")[0]
    return halves(tensor, hp, (f"{block}.mlp.experts.gate_proj.weight", f"{block}.mlp.experts.up_proj.weight"))


def _split_shared(tensor: Tensor, hp: Hparams) -> Sequence[Placed]:
    """shared_mlp.input_linear (2·s, h) → gate and up of the expert every token passes."""
    block = tensor.name.partition(".shared_mlp.")[0]
    names = f"{block}.mlp.shared_expert.gate_proj.weight", f"{block}.mlp.shared_expert.up_proj.weight"
    return halves(tensor, hp, names)


GRANITEMOE = replace(
    GRANITE,
    name="granitemoe",
    architectures=("GraniteMoeForCausalLM",),
    rules={
        **ROTARY_RULES,
        r"block_sparse_moe\.input_linear\.weight": _split_experts,
        r"block_sparse_moe\.experts\.gate_up_proj": _split_experts,
    },
    renames={
        **LLAMA.renames,
        r"\.experts\.down_proj$": ".output_linear.weight",
        r"\.block_sparse_moe\.router\.weight$": ".block_sparse_moe.router.layer.weight",
    },
    defaults={**GRANITE.defaults, "num_local_experts": 8, "num_experts_per_tok": 2},
)


def _shared_width(hp: Hparams) -> int | None:
    return hp.find("shared_intermediate_size", default=None) or None


GRANITEMOE_SHARED = replace(
    GRANITEMOE,
    architectures=("GraniteMoeSharedForCausalLM",),
    keys=(
        *GRANITE.keys,
        derived("expert_shared_feed_forward_length", u32, _shared_width, "shared_intermediate_size"),
    ),
    rules={**GRANITEMOE.rules, r"shared_mlp\.input_linear\.weight": _split_shared},
    model_type="granitemoeshared",
    marked_by="expert_shared_feed_forward_length",
)

TABLES = (GRANITE, GRANITEMOE, GRANITEMOE_SHARED)
