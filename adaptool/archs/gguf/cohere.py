"""Command R and R7B: neighbours rotate already, and the logits are scaled."""

from __future__ import annotations

from dataclasses import replace

from adaptool.archs.gguf.decoders import TEXT_MODEL, divided, every_head
from adaptool.archs.gguf.hparams import Hparams
from adaptool.archs.gguf.keys import COMMON, CONTEXT, ROPE_SCALING, SLIDING_WINDOW, VOCAB_SIZE, main_rope
from adaptool.archs.gguf.layers import flags, sliding_layers
from adaptool.archs.gguf.spec import ArchSpec, derived, setting
from adaptool.tensors.ggml.values import f32, text, u32

NO_SCALING = derived("rope.scaling.type", text, lambda hp: "none")
LOGIT_SCALE = setting("logit_scale", f32, "logit_scale")
TRAINED_CONTEXT = setting("context_length", u32, "model_max_length", "max_position_embeddings")
"""Command R's config understates the length it was trained with."""
SHARED = tuple(key for key in COMMON if key not in ROPE_SCALING)

HEADS_NORMALISED_FROM = 64
"""llama.cpp reads norms of q and k from this many layers on: Command R+."""


def _norms_elsewhere(hp: Hparams) -> str | None:
    normalised = bool(hp.find("use_qk_norm", default=False))
    if normalised == (hp.layers >= HEADS_NORMALISED_FROM):
        return None
    return f"use_qk_norm is {normalised} with {hp.layers} layers: llama.cpp has these norms from 64 layers on, always"


COHERE = ArchSpec(
    name="command-r",
    architectures=("CohereForCausalLM",),
    keys=(*(TRAINED_CONTEXT if key is CONTEXT else key for key in SHARED), LOGIT_SCALE, NO_SCALING),
    tokenizer="bpe",
    renames=TEXT_MODEL,
    defaults={
        "num_key_value_heads": every_head,
        "rope_theta": 500000.0,
        "max_position_embeddings": 8192,
        "layer_norm_eps": 1e-5,
        "logit_scale": 0.0625,
    },
    model_type="cohere",
    config={"hidden_act": "silu"},
    limits=_norms_elsewhere,
)


def _rotated(hp: Hparams) -> int:
    return int(main_rope(hp).get("partial_rotary_factor", 1.0) * divided(hp))


EVERY_FOURTH_ATTENDS_TO_ALL = 4


def _unusual_pattern(hp: Hparams) -> list[bool] | None:
    layers = sliding_layers(hp)
    usual = [(layer + 1) % EVERY_FOURTH_ATTENDS_TO_ALL != 0 for layer in range(hp.layers)]
    return layers if layers != usual else None


COHERE2 = replace(
    COHERE,
    name="cohere2",
    architectures=("Cohere2ForCausalLM",),
    keys=(
        *SHARED,
        setting("attention.key_length", u32, "head_dim"),
        setting("attention.value_length", u32, "head_dim"),
        LOGIT_SCALE,
        SLIDING_WINDOW,
        derived("attention.sliding_window_pattern", flags, _unusual_pattern, "layer_types"),
        VOCAB_SIZE,
        derived("rope.dimension_count", u32, _rotated),
        NO_SCALING,
    ),
    defaults={
        **COHERE.defaults,
        "rope_theta": 10000.0,
        "head_dim": divided,
        "sliding_window": 4096,
        "sliding_window_pattern": 4,
    },
    model_type="cohere2",
    limits=lambda hp: None,
)

TABLES = (COHERE, COHERE2)
