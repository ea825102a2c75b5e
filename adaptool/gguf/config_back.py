"""config.json read back from a GGUF: the tables' keys, and what only its tensors tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adaptool.archs.gguf.spec import ArchSpec
from adaptool.errors import FormatError, UnsupportedError
from adaptool.gguf.config_special import SPECIAL, head_dim
from adaptool.gguf.metadata import Metadata
from adaptool.gguf.rope_back import Factors, rope_settings
from adaptool.tensors.ggml.values import ValueType
from adaptool.tensors.store import Store

EMBEDDING = "token_embd.weight"
OUTPUT = "output.weight"

POSITIONS = "position_embd.weight"
"""A model with a table of positions rotates nothing."""

SLOPES_FOR_POSITIONS = ("bloom", "mpt")
"""Nor do models with ALiBi."""

ROWS_OF = {
    "vocab_size": EMBEDDING,
    "max_position_embeddings": POSITIONS,
    "type_vocab_size": "token_types.weight",
}
"""Settings that are a tensor's number of rows."""

RENAMED: Mapping[str, Mapping[str, str]] = {
    **{name: {"num_local_experts": "num_experts"} for name in ("qwen2_moe", "qwen3_moe", "olmoe")},
    "starcoder2": {"layer_norm_eps": "norm_epsilon"},
    "falcon": {"num_key_value_heads": "num_kv_heads", "layer_norm_eps": "layer_norm_epsilon"},
    "gpt_neox": {"partial_rotary_factor": "rotary_pct", "rope_theta": "rotary_emb_base"},
    "bloom": {
        "max_position_embeddings": "seq_length",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "layer_norm_eps": "layer_norm_epsilon",
    },
    "mpt": {
        "max_position_embeddings": "max_seq_len",
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
    },
    "distilbert": {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
    },
    "gpt2": {
        "max_position_embeddings": "n_positions",
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "n_inner",
        "layer_norm_eps": "layer_norm_epsilon",
    },
}
"""Model type → the names its config class has for what most call otherwise."""

CONTEXT = "context_length"
"""A key that some tables read from other settings first, and every class has as max_position_embeddings."""

SLIDING_PATTERN = "attention.sliding_window_pattern"

QUERIES, BOTH = {"attention_bias": "attn_q.bias"}, {"attention_bias": "attn_q.bias", "mlp_bias": "ffn_up.bias"}
QUERIES_BIASED = """qwen3 qwen3_moe gemma gemma2 gemma3_text olmo olmo2 olmo3 olmoe cohere cohere2 granitemoe
    granitemoeshared"""
SEEN_IN: Mapping[str, Mapping[str, str]] = {
    **dict.fromkeys(QUERIES_BIASED.split(), QUERIES),
    **dict.fromkeys(("llama", "granite", "smollm3", "arcee"), BOTH),
    "seed_oss": {**BOTH, "attention_out_bias": "attn_output.bias"},
    "stablelm": {"use_qkv_bias": "attn_q.bias", "qk_layernorm": "attn_q_norm.weight"},
    "starcoder2": {"use_bias": "attn_q.bias"},
    "gpt_neox": {"attention_bias": "attn_qkv.bias"},
    "falcon": {"bias": "attn_qkv.bias"},
}
"""Per model type: switches of its config, and the tensor of the first block that shows they are on."""


def model_config(meta: Metadata, spec: ArchSpec, store: Store, factors: Factors, dtype_name: str) -> dict[str, Any]:
    """The config.json of the model in a GGUF, in the spelling every transformers release reads.

    Raises FormatError where the metadata cannot be a model's, UnsupportedError where config.json has no words for them.
    """
    _refuse_nonsense(meta, store)
    model_type = spec.model_type or spec.name
    config: dict[str, Any] = {"architectures": [spec.architectures[0]], "model_type": model_type, **spec.config}
    config |= _settings(meta, spec) | _layer_types(meta)
    config |= {name: store[tensor].shape[0] for name, tensor in ROWS_OF.items() if tensor in store}
    seen = SEEN_IN.get(model_type, {})
    config |= {flag: f"blk.0.{leaf}" in store for flag, leaf in seen.items()}
    if POSITIONS not in store and model_type not in SLOPES_FOR_POSITIONS:
        config |= rope_settings(meta, head_dim(meta), factors)
    config["tie_word_embeddings"] = OUTPUT not in store
    config |= {"torch_dtype": dtype_name, "use_cache": True} | special_ids(meta, config["vocab_size"])
    if special := SPECIAL.get(model_type):
        config |= special(meta, config, store)
    own = RENAMED.get(model_type, {})
    return dict(sorted((own.get(name, name), value) for name, value in config.items()))


def special_ids(meta: Metadata, vocab_size: int) -> dict[str, int | None]:
    """The ids of the tokens a model begins, ends and pads with; None where it has none, whatever its class assumes."""
    ids = {f"{name}_token_id": meta.token(role) for name, role in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))}
    return {name: number if number is not None and number < vocab_size else None for name, number in ids.items()}


def _refuse_nonsense(meta: Metadata, store: Store) -> None:
    """What would have us divide by zero, or list names for ever."""
    for name in (".block_count", ".embedding_length", ".attention.head_count"):
        if meta.count(name, least=1) is None:
            raise FormatError(f"{meta.path}: no {meta.full(name)}: this is no whole model")
    meta.count(".attention.head_count_kv", least=1)
    blocks = len({name.split(".")[1] for name in store if name.startswith("blk.")})
    claimed = meta.count(".block_count")
    if claimed != blocks:
        raise FormatError(f"{meta.path}: {meta.full('.block_count')} is {claimed}, and {blocks} blocks have tensors")
    experts = meta.count(".expert_count")
    stacked = {info.shape[0] for name, info in store.infos.items() if name.endswith("_exps.weight") and info.shape}
    if stacked - {experts}:
        raise FormatError(
            f"{meta.path}: {meta.full('.expert_count')} is {experts}, and there are tensors of {max(stacked)}"
        )
    if experts and not stacked:
        raise FormatError(f"{meta.path}: {experts} experts, and no tensor ffn_*_exps.weight of them")
    if EMBEDDING not in store or len(store[EMBEDDING].shape) != 2:
        raise FormatError(f"{meta.path}: no matrix {EMBEDDING}: this is no whole model")


def _settings(meta: Metadata, spec: ArchSpec) -> dict[str, Any]:
    """What the table's keys hold, under the names config.json has for it."""
    config: dict[str, Any] = {}
    for key in spec.keys:
        if not key.config or key.name == SLIDING_PATTERN:
            continue
        value = meta.find(key.name if key.name.startswith("general.") else f".{key.name}")
        if value is None and key.name == "attention.head_count_kv" and spec.name != "bert":
            value = meta.count(".attention.head_count")
        if value is None:
            continue
        name = "max_position_embeddings" if key.name == CONTEXT else key.config
        if config.setdefault(name, value) != value:
            raise UnsupportedError(f"{meta.path}: {meta.full(f'.{key.name}')} is {value}, and {name} {config[name]}")
    return config


def _layer_types(meta: Metadata) -> dict[str, Any]:
    """Which layers attend to a window only, where the file says it layer by layer."""
    sliding = meta.keys.get(meta.full(f".{SLIDING_PATTERN}"))
    if sliding is None or sliding.kind is not ValueType.ARRAY or sliding.element is not ValueType.BOOL:
        return {}
    if len(sliding.data) != meta.count(".block_count"):
        raise FormatError(f"{meta.path}: {SLIDING_PATTERN} speaks of {len(sliding.data)} layers")
    return {"layer_types": ["sliding_attention" if one else "full_attention" for one in sliding.data]}
