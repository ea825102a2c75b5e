"""Gemma 1, 2 and 3: norms stored as what they differ from one by, embeddings that are the output head too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from adaptool.archs.gguf.decoders import HEAD_LENGTHS, TEXT_MODEL, VISION
from adaptool.archs.gguf.hparams import Hparams
from adaptool.archs.gguf.keys import (
    BLOCKS,
    COMMON,
    CONTEXT,
    EMBEDDING,
    FEED_FORWARD,
    HEADS,
    KV_HEADS,
    RMS_EPS,
    ROPE_BASE_UNUSUAL,
    ROPE_SCALING,
    SLIDING_WINDOW,
)
from adaptool.archs.gguf.layers import flags, sliding_layers, unusual_layers
from adaptool.archs.gguf.placed import Placed
from adaptool.archs.gguf.spec import ArchSpec, Tensor, derived
from adaptool.tensors.ggml.values import f32, u32


def _from_one(tensor: Tensor, hp: Hparams) -> Sequence[Placed]:
    return [Placed(tensor.name, tensor.shape, (tensor.source,), shift=1.0)]


def _separate_head(hp: Hparams) -> str | None:
    if hp.find("tie_word_embeddings", default=True) is not False:
        return None
    return "tie_word_embeddings is false, and llama.cpp's Gemma has no output head but its embeddings"


GEMMA = ArchSpec(
    name="gemma",
    architectures=("GemmaForCausalLM",),
    keys=(
        CONTEXT, EMBEDDING, BLOCKS, FEED_FORWARD, HEADS, KV_HEADS, RMS_EPS, *HEAD_LENGTHS, *ROPE_SCALING,
        ROPE_BASE_UNUSUAL,
    ),
    tokenizer="gemma",
    rules={r"\w*norm\.weight": _from_one},
    renames=TEXT_MODEL,
    dropped=(r"^lm_head\.weight$",),
    defaults={
        "num_key_value_heads": 16,
        "head_dim": 256,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
    },
    limits=_separate_head,
)  # fmt: skip

GEMMA2_ALTERNATES = 2
"""Every second layer attends to everything."""

GEMMA2 = replace(
    GEMMA,
    name="gemma2",
    architectures=("Gemma2ForCausalLM",),
    keys=(
        *GEMMA.keys,
        derived("attn_logit_softcapping", f32, lambda hp: hp.find("attn_logit_softcapping"), "attn_logit_softcapping"),
        derived(
            "final_logit_softcapping", f32, lambda hp: hp.find("final_logit_softcapping"), "final_logit_softcapping"
        ),
        SLIDING_WINDOW,
        derived("attention.sliding_window_pattern", flags, unusual_layers(GEMMA2_ALTERNATES), "layer_types"),
    ),
    tokenizer="gemma2",
    defaults={
        **GEMMA.defaults,
        "num_key_value_heads": 4,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "sliding_window": 4096,
        "sliding_window_pattern": GEMMA2_ALTERNATES,
    },
    config={"hidden_activation": "gelu_pytorch_tanh"},
)
"""Its two caps are always applied: a config that takes one away is an error."""

GEMMA3_ALTERNATES = 6


def _window(hp: Hparams) -> int | None:
    return hp.count("sliding_window") if any(sliding_layers(hp) or ()) else None


def _capped_attention(hp: Hparams) -> str | None:
    if hp.find("attn_logit_softcapping", default=None) is not None:
        return "attn_logit_softcapping is set, and llama.cpp's Gemma 3 caps final logits only"
    if hp.find("use_bidirectional_attention", default=False):
        return "use_bidirectional_attention is true, and llama.cpp's Gemma 3 looks back only"
    return None


GEMMA3 = ArchSpec(
    name="gemma3",
    architectures=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    keys=(
        *COMMON,
        *HEAD_LENGTHS,
        derived(
            "final_logit_softcapping",
            f32,
            lambda hp: hp.find("final_logit_softcapping", default=None) or None,
            "final_logit_softcapping",
        ),
        derived("attention.sliding_window", u32, _window, "sliding_window"),
        derived("attention.sliding_window_pattern", flags, unusual_layers(GEMMA3_ALTERNATES), "layer_types"),
    ),
    tokenizer="gemma2",
    rules=GEMMA.rules,
    renames=TEXT_MODEL,
    dropped=VISION,
    defaults={
        "vocab_size": 262208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "sliding_window": 4096,
        "sliding_window_pattern": GEMMA3_ALTERNATES,
    },
    model_type="gemma3_text",
    config={"hidden_activation": "gelu_pytorch_tanh"},
    limits=_capped_attention,
)
"""Configs of the multimodal ones leave out whatever is as the class assumes, sizes included."""

TABLES = (GEMMA, GEMMA2, GEMMA3)
