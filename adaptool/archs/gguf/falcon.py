"""Falcon (7B, 40B, 11B), BLOOM and MPT: GPTs with fused queries, keys and values."""

from __future__ import annotations

from collections.abc import Sequence

from adaptool.archs.gguf.gpt import each_apart
from adaptool.archs.gguf.hparams import Hparams
from adaptool.archs.gguf.keys import (
    BLOCKS,
    EMBEDDING,
    HEADS,
    NORM_EPS,
    ROPE_BASE_UNUSUAL,
    ROPE_SCALING,
)
from adaptool.archs.gguf.limits import gelu_only
from adaptool.archs.gguf.placed import Placed, ungrouped
from adaptool.archs.gguf.spec import ArchSpec, Tensor, derived, setting
from adaptool.tensors.ggml.values import f32, text, u32


def _kv_heads(hp: Hparams) -> int:
    """One for 7B, as many as its groups for 40B.

    Configs of the first release (RefinedWeb) say ``n_head_kv``; later ones may carry a ``num_kv_heads`` that
    ``multi_query`` overrules.
    """
    grouped = hp.find("n_head_kv", default=None) if hp.find("multi_query", default=None) is None else None
    if hp.find("new_decoder_architecture", default=False) or grouped is not None:
        return hp.count("num_kv_heads", "n_head_kv")
    return 1 if hp.find("multi_query", default=True) else hp.heads


def _groups_apart(tensor: Tensor, hp: Hparams) -> Sequence[Placed]:
    """Each key/value head's queries, its key and its value, by turns: all queries, all keys, all values."""
    groups = _kv_heads(hp)
    order = ungrouped(tensor.shape[0], groups, hp.heads // groups)
    return [Placed(tensor.name, tensor.shape, (tensor.source,), order)]


FALCON = ArchSpec(
    name="falcon",
    architectures=("FalconForCausalLM", "RWForCausalLM"),
    keys=(
        setting("context_length", u32, "max_position_embeddings"),
        derived("tensor_data_layout", text, lambda hp: "jploski"),
        EMBEDDING,
        setting("feed_forward_length", u32, "ffn_hidden_size"),
        BLOCKS, HEADS,
        derived("attention.head_count_kv", u32, _kv_heads, "num_kv_heads"),
        NORM_EPS,
        *ROPE_SCALING,
        ROPE_BASE_UNUSUAL,
    ),
    tokenizer="bpe",
    rules={r"query_key_value\.weight": _groups_apart},
    defaults={
        "num_kv_heads": lambda hp: hp.heads,
        "ffn_hidden_size": lambda hp: 4 * hp.hidden,
        "max_position_embeddings": 2048,
        "layer_norm_epsilon": 1e-5,
        "rope_theta": 10000.0,
    },
    config={"alibi": False, "bias": False, "parallel_attn": True},
    limits=gelu_only("activation"),
)  # fmt: skip

BLOOM = ArchSpec(
    name="bloom",
    architectures=("BloomForCausalLM", "BloomModel"),
    keys=(
        setting("context_length", u32, "seq_length"),
        EMBEDDING,
        derived("feed_forward_length", u32, lambda hp: 4 * hp.hidden),
        BLOCKS, HEADS,
        derived("attention.head_count_kv", u32, lambda hp: hp.heads),
        NORM_EPS,
    ),
    tokenizer="bpe",
    rules={r"query_key_value\.(?:weight|bias)": each_apart},
    renames={r"^transformer\.": ""},
    defaults={"seq_length": 2048, "layer_norm_epsilon": 1e-5},
    config={"apply_residual_connection_post_layernorm": False},
)  # fmt: skip
"""Positions are a slope (ALiBi): ``seq_length`` bounds nothing but what it was trained with."""


def _attention(name: str, hp: Hparams) -> float | int | None:
    value: float | int | None = (hp.find("attn_config", default=None) or {}).get(name)
    return value


MPT = ArchSpec(
    name="mpt",
    architectures=("MptForCausalLM", "MPTForCausalLM"),
    keys=(
        setting("context_length", u32, "max_seq_len"),
        EMBEDDING, BLOCKS,
        derived("feed_forward_length", u32, lambda hp: hp.count("expansion_ratio") * hp.hidden),
        HEADS,
        derived("attention.head_count_kv", u32, lambda hp: _attention("kv_n_heads", hp)),
        setting("attention.layer_norm_epsilon", f32, "layer_norm_epsilon"),
        derived("attention.clamp_kqv", f32, lambda hp: _attention("clip_qkv", hp)),
        derived("attention.max_alibi_bias", f32, lambda hp: _alibi(hp)),
    ),
    tokenizer="bpe",
    defaults={"max_seq_len": 2048, "expansion_ratio": 4, "layer_norm_epsilon": 1e-5},
)  # fmt: skip


def _alibi(hp: Hparams) -> float:
    if _attention("alibi", hp) is False:
        return 0.0
    return float(_attention("alibi_bias_max", hp) or 8)


TABLES = (FALCON, BLOOM, MPT)
