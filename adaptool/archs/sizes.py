"""From a config.json to the symbols and flags the layouts are written in.

A config leaves out what equals its class's default, the families name one thing differently (``n_embd``,
``d_model``, ``hidden_size``), and transformers 4 and 5 do so too (``num_experts``, ``num_local_experts``).
Here all that becomes one vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from adaptool.errors import FormatError

Sizes = Mapping[str, Any]
"""Symbols are capitals (``H``: the hidden size), flags are config keys; a flag may be the set of layers it holds in."""

# The families' own names for what most call otherwise.
ALIASES = {
    **dict.fromkeys(("n_embd", "n_embed", "d_model", "dim"), "hidden_size"),
    **dict.fromkeys(("n_layer", "n_layers", "num_layers"), "num_hidden_layers"),
    **dict.fromkeys(("n_head", "n_heads", "num_heads"), "num_attention_heads"),
    **dict.fromkeys(("n_inner", "d_ff", "ffn_dim", "ffn_hidden_size", "hidden_dim"), "intermediate_size"),
    **dict.fromkeys(("num_kv_heads", "n_head_kv"), "num_key_value_heads"),
    "n_positions": "max_position_embeddings",
    "d_kv": "head_dim",
    "num_experts": "num_local_experts",
    "bias": "use_bias",
    **dict.fromkeys(("qkv_bias", "use_qkv_bias"), "attention_bias"),
    "shared_intermediate_size": "shared_expert_intermediate_size",
}


def _sizes(
    vocab: int, hidden: int, intermediate: int | None, layers: int, heads: int, **rest: object
) -> dict[str, Any]:
    shape = (vocab, hidden, intermediate, layers, heads)
    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return dict(zip(keys, shape, strict=True)) | rest


TIED = {"tie_word_embeddings": True}
BERT = {"max_position_embeddings": 512, "type_vocab_size": 2, **TIED}

# What each config class assumes of a key that is missing; what is missing here too is None, that is: off, or derived.
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": _sizes(32000, 4096, 11008, 32, 32),
    "mistral": _sizes(32000, 4096, 14336, 32, 32, num_key_value_heads=8),
    "mixtral": _sizes(32000, 4096, 14336, 32, 32, num_key_value_heads=8, num_local_experts=8),
    "qwen2": _sizes(151936, 4096, 22016, 32, 32, num_key_value_heads=32),
    "qwen2_moe": _sizes(
        151936, 2048, 5632, 24, 16, num_key_value_heads=16, num_local_experts=60, moe_intermediate_size=1408,
        shared_expert_intermediate_size=5632, decoder_sparse_step=1, attention_bias=True,
    ),
    "qwen3": _sizes(151936, 4096, 22016, 32, 32, num_key_value_heads=32, head_dim=128),
    "qwen3_moe": _sizes(
        151936, 2048, 6144, 24, 32, num_key_value_heads=4, num_local_experts=128, moe_intermediate_size=768,
        decoder_sparse_step=1,
    ),
    "gemma": _sizes(256000, 3072, 24576, 28, 16, num_key_value_heads=16, head_dim=256, **TIED),
    "gemma2": _sizes(256000, 2304, 9216, 26, 8, num_key_value_heads=4, head_dim=256, **TIED),
    "gemma3_text": _sizes(262208, 2304, 9216, 26, 8, num_key_value_heads=4, head_dim=256, **TIED),
    "phi": _sizes(51200, 2048, 8192, 24, 32),
    "phi3": _sizes(32064, 3072, 8192, 32, 32),
    "starcoder2": _sizes(49152, 3072, 12288, 30, 24, num_key_value_heads=2, use_bias=True, **TIED),
    "smollm3": _sizes(128256, 2048, 11008, 36, 16, num_key_value_heads=4, **TIED),
    "granite": _sizes(32000, 4096, 11008, 32, 32),
    **dict.fromkeys(("granitemoe", "granitemoeshared"), _sizes(32000, 4096, 11008, 32, 32, num_local_experts=8)),
    "arcee": _sizes(32000, 2560, 18432, 32, 32),
    "ministral3": _sizes(131072, 4096, 14336, 34, 32, num_key_value_heads=8, head_dim=128),
    "seed_oss": _sizes(155136, 4096, 27648, 64, 80, num_key_value_heads=8, head_dim=128, attention_bias=True),
    **dict.fromkeys(("olmo", "olmo2", "olmo3"), _sizes(50304, 4096, 11008, 32, 32)),
    "olmoe": _sizes(50304, 2048, 2048, 16, 16, num_local_experts=64),
    "exaone4": _sizes(102400, 4096, 16384, 32, 32, num_key_value_heads=32),
    **dict.fromkeys(("cohere", "cohere2"), _sizes(256000, 8192, 22528, 40, 64, **TIED)),
    "stablelm": _sizes(50304, 2560, 6912, 32, 32, num_key_value_heads=32),
    "bloom": _sizes(250880, 64, None, 2, 8, **TIED),
    "mpt": _sizes(50368, 2048, None, 24, 16, **TIED),
    "gpt2": _sizes(50257, 768, None, 12, 12, max_position_embeddings=1024, **TIED),
    "gpt_neox": _sizes(50432, 6144, 24576, 44, 64, attention_bias=True),
    "falcon": _sizes(65024, 4544, None, 32, 71, multi_query=True, parallel_attn=True, **TIED),
    "opt": _sizes(
        50272, 768, 3072, 12, 12, max_position_embeddings=2048, do_layer_norm_before=True, enable_bias=True,
        layer_norm_elementwise_affine=True, **TIED,
    ),
    "bert": _sizes(30522, 768, 3072, 12, 12, **BERT),
    "roberta": _sizes(50265, 768, 3072, 12, 12, **BERT),
    "xlm-roberta": _sizes(30522, 768, 3072, 12, 12, **BERT),
    "distilbert": _sizes(30522, 768, 3072, 6, 12, **BERT),
    "nomic_bert": _sizes(30528, 768, 3072, 12, 12, **BERT),
    "t5": _sizes(
        32128, 512, 2048, 6, 8, head_dim=64, relative_attention_num_buckets=32, feed_forward_proj="relu", **TIED
    ),
    "siglip_vision_model": _sizes(
        0, 768, 3072, 12, 12, image_size=224, patch_size=16, num_channels=3, vision_use_head=True
    ),
}  # fmt: skip


MOST_LAYERS = 10_000
"""More than any model has: a config that says otherwise would have us list names for ever."""


def sizes_of(model_type: str, config: Mapping[str, Any]) -> Sizes:
    """The symbols and flags of a config of this type; one that cannot describe a model raises FormatError."""
    plain = {ALIASES.get(key, key): value for key, value in config.items() if key not in ALIASES}
    renamed = {ALIASES[key]: value for key, value in config.items() if key in ALIASES}
    size = {**dict.fromkeys(_READ), **DEFAULTS[model_type], **renamed, **plain}
    try:
        common = _derive(size)
        special = _SPECIAL.get(model_type)
        return common | special(common) if special else common
    except (TypeError, ValueError, ZeroDivisionError, AttributeError, KeyError) as error:
        raise _broken(f"does not add up: {error}") from None


def whole(size: Sizes, symbol: str) -> int:
    """What a symbol stands for: a whole number, or else FormatError."""
    value = size.get(symbol)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _broken(f"gives {value!r} where a size belongs ({symbol})")
    if symbol in ("L", "N") and value > MOST_LAYERS:
        raise _broken(f"speaks of {value} layers")
    return value


def _broken(why: str) -> FormatError:
    return FormatError(f"config.json {why}", hint="compare it with the original model's config.json")


_READ = (
    *("num_key_value_heads", "head_dim", "intermediate_size", "max_position_embeddings", "type_vocab_size"),
    *("num_local_experts", "moe_intermediate_size", "shared_expert_intermediate_size", "id2label", "num_labels"),
)


def _derive(size: dict[str, Any]) -> dict[str, Any]:
    heads, H = size["num_attention_heads"], size["hidden_size"]
    groups = heads if size["num_key_value_heads"] is None else size["num_key_value_heads"]
    D = size["head_dim"] or H // heads
    symbols = {
        "V": size["vocab_size"],
        "H": H,
        "I": size["intermediate_size"] or 4 * H,
        "L": size["num_hidden_layers"],
        "A": heads,
        "G": groups,
        "D": D,
        "Q": heads * D,
        "K": groups * D,
        "QKV": (heads + 2 * groups) * D,
        "P": size["max_position_embeddings"],
        "T": size["type_vocab_size"],
        "E": size["num_local_experts"],
        "M": size["moe_intermediate_size"],
        "S": size["shared_expert_intermediate_size"],
        "Y": size["num_labels"] or len(size["id2label"] or (0, 1)),
    }
    return size | {"output_bias": size.get("attention_bias")} | symbols


def _starcoder2(size: dict[str, Any]) -> dict[str, Any]:
    return {"attention_bias": size["use_bias"], "output_bias": size["use_bias"]}


def _qwen2(size: dict[str, Any]) -> dict[str, Any]:
    return {"attention_bias": True, "output_bias": False}


def _seed_oss(size: dict[str, Any]) -> dict[str, Any]:
    return {"output_bias": size.get("attention_out_bias", False)}


def _stablelm(size: dict[str, Any]) -> dict[str, Any]:
    return {"output_bias": False}


def _granitemoe(size: dict[str, Any]) -> dict[str, Any]:
    return {"shared_expert": bool(size["S"])}


def _fourfold(size: dict[str, Any]) -> dict[str, Any]:
    return {"I": 4 * size["H"]}  # whatever n_inner and expansion_ratio say


def _qwen2_moe(size: dict[str, Any]) -> dict[str, Any]:
    return _sparse(size) | {"shared_expert": True, "output_bias": False}


def _qwen3_moe(size: dict[str, Any]) -> dict[str, Any]:
    return _sparse(size) | {"head_norms": True}


def _sparse(size: dict[str, Any]) -> dict[str, Any]:
    dense, step = size.get("mlp_only_layers") or (), size["decoder_sparse_step"]
    sparse = (layer for layer in range(size["L"]) if layer not in dense and size["E"] > 0 and (layer + 1) % step == 0)
    return {"sparse_layers": frozenset(sparse)}


def _falcon(size: dict[str, Any]) -> dict[str, Any]:
    H, D = size["H"], size["D"]
    new = size.get("new_decoder_architecture")
    norms = size.get("num_ln_in_parallel_attn") or (2 if new else 1)
    fused = size["QKV"] if new else H + 2 * D if size["multi_query"] else 3 * H
    return {"QKV": fused, "two_norms": bool(size["parallel_attn"]) and norms == 2}


def _opt(size: dict[str, Any]) -> dict[str, Any]:
    width = size.get("word_embed_proj_dim") or size["H"]
    final = size["do_layer_norm_before"] and not size.get("_remove_final_layer_norm")
    # OPT's position table starts at index 2
    return {"W": width, "projected": width != size["H"], "final_norm": final, "P": size["P"] + 2}


def _t5(size: dict[str, Any]) -> dict[str, Any]:
    layers = size.get("num_decoder_layers")
    gated = size["feed_forward_proj"].startswith("gated")
    return {"N": size["L"] if layers is None else layers, "B": size["relative_attention_num_buckets"], "gated": gated}


def _siglip(size: dict[str, Any]) -> dict[str, Any]:
    patch = size["patch_size"]
    return {"R": patch, "C": size["num_channels"], "P": (size["image_size"] // patch) ** 2}


_SPECIAL: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "qwen2": _qwen2,
    "qwen2_moe": _qwen2_moe,
    "qwen3_moe": _qwen3_moe,
    "starcoder2": _starcoder2,
    "seed_oss": _seed_oss,
    "stablelm": _stablelm,
    "granitemoeshared": _granitemoe,
    "bloom": _fourfold,
    "mpt": _fourfold,
    "falcon": _falcon,
    "opt": _opt,
    "t5": _t5,
    "siglip_vision_model": _siglip,
}
