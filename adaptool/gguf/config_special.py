"""What config.json says of single families where no one metadata key does: it follows from several, or from tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from adaptool.errors import FormatError
from adaptool.gguf.metadata import Metadata
from adaptool.tensors.ggml.values import ValueType
from adaptool.tensors.store import Store

Settings = Callable[[Metadata, Mapping[str, Any], Store], dict[str, Any]]
"""From the metadata, the settings found so far and the tensors to further settings, which overrule those."""

CLASSIFIER = "cls.output.weight"
LABELS = "classifier.output_labels"


def head_dim(meta: Metadata) -> int:
    """Width of one head."""
    length = meta.count(".attention.key_length", least=1)
    hidden, heads = meta.count(".embedding_length"), meta.count(".attention.head_count")
    return length or max(1, (hidden or 1) // (heads or 1))


def _falcon(meta: Metadata, config: Mapping[str, Any], store: Store) -> dict[str, Any]:
    """The first Falcons share one key and value head; those after it group them, with two norms (40B) or one (11B)."""
    heads, groups = meta.count(".attention.head_count"), meta.count(".attention.head_count_kv")
    two_norms = "blk.0.attn_norm_2.weight" in store
    grouped = two_norms or groups not in (None, 1, heads)
    norms = {"num_ln_in_parallel_attn": 2 if two_norms else 1} if grouped else {}
    return {"multi_query": groups == 1, "parallel_attn": True, "new_decoder_architecture": grouped, **norms}


def _query_scale(large: int) -> Settings:
    """llama.cpp divides queries by the root of the head's width, but in the largest model by that of hidden / heads."""

    def settings(meta: Metadata, config: Mapping[str, Any], store: Store) -> dict[str, Any]:
        hidden, heads = meta.count(".embedding_length") or 0, meta.count(".attention.head_count") or 1
        is_large = meta.count(".block_count") == large
        return {"query_pre_attn_scalar": hidden // heads if is_large else head_dim(meta)}

    return settings


def _gemma3(meta: Metadata, config: Mapping[str, Any], store: Store) -> dict[str, Any]:
    local = meta.number(".rope.freq_base_swa")
    base = {"rope_local_base_freq": local} if local is not None else {}
    return {**_query_scale(62)(meta, config, store), **base}


def _window(meta: Metadata, config: Mapping[str, Any], store: Store) -> dict[str, Any]:
    """No window, or one of length 0, must be said: config classes assume one."""
    return {"sliding_window": config.get("sliding_window") or None}


def _whole_head(meta: Metadata, config: Mapping[str, Any], store: Store) -> dict[str, Any]:
    """That all of a head rotates must be said: config classes assume a part of it."""
    return {"partial_rotary_factor": config.get("partial_rotary_factor", 1.0)}


def _exaone4(meta: Metadata, config: Mapping[str, Any], store: Store) -> dict[str, Any]:
    everything = ["full_attention"] * (meta.count(".block_count") or 0)
    return {"layer_types": config.get("layer_types", everything), **_window(meta, config, store)}


def _olmo3(meta: Metadata, config: Mapping[str, Any], store: Store) -> dict[str, Any]:
    """Layers with a window rotate unscaled, which transformers 5 has one more spelling for."""
    theta = {"rope_theta": config["rope_theta"]}
    scaled = {**theta, **config.get("rope_scaling", {"rope_type": "default"})}
    return {"rope_parameters": {"full_attention": scaled, "sliding_attention": {**theta, "rope_type": "default"}}}


def _ministral3(meta: Metadata, config: Mapping[str, Any], store: Store) -> dict[str, Any]:
    """Ministral 3, which only transformers 5 knows; without its scaled queries it is Mistral."""
    beta = meta.number(".attention.temperature_scale")
    if not beta or not config.get("rope_scaling"):
        return {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": None}
    every = meta.number(".rope.scaling.yarn_log_multiplier")
    temperature = {"mscale": 1.0, "mscale_all_dim": every} if every else {}
    return {"rope_scaling": {**config["rope_scaling"], **temperature, "llama_4_scaling_beta": beta}}


def _mpt(meta: Metadata, config: Mapping[str, Any], store: Store) -> dict[str, Any]:
    slopes = meta.number(".attention.max_alibi_bias") or 0.0
    attention = {"alibi": slopes > 0, "clip_qkv": meta.number(".attention.clamp_kqv")}
    return {"attn_config": attention | ({"alibi_bias_max": int(slopes)} if slopes else {}), "no_bias": True}


def _bert(meta: Metadata, config: Mapping[str, Any], store: Store) -> dict[str, Any]:
    """A classifier's labels."""
    if CLASSIFIER not in store:
        return {}
    count = store[CLASSIFIER].shape[0]
    found = meta.keys.get(meta.full(f".{LABELS}"))
    labels = [f"LABEL_{number}" for number in range(count)]
    if found is not None and found.kind is ValueType.ARRAY and found.element is ValueType.STRING:
        labels = list(found.data)
    if len(labels) != count or len(set(labels)) != count:
        raise FormatError(
            f"{meta.path}: {meta.full(f'.{LABELS}')} names {len(labels)} labels, and {CLASSIFIER} {count}"
        )
    return {
        "architectures": [config["architectures"][0].replace("Model", "ForSequenceClassification")],
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
    }


def _roberta(meta: Metadata, config: Mapping[str, Any], store: Store) -> dict[str, Any]:
    """Its positions are counted from behind the padding token's id, and those before it are not in the file."""
    pad = 1 if config["pad_token_id"] is None else config["pad_token_id"]
    positions = config.get("max_position_embeddings", 0) + pad + 1
    return {**_bert(meta, config, store), "pad_token_id": pad, "max_position_embeddings": positions}


def _nomic_bert(meta: Metadata, config: Mapping[str, Any], store: Store) -> dict[str, Any]:
    """Its class takes no null for an answer."""
    return {"pad_token_id": config["pad_token_id"] or 0}


SPECIAL: Mapping[str, Settings] = {
    "falcon": _falcon,
    "gemma2": _query_scale(46),
    "gemma3_text": _gemma3,
    **dict.fromkeys(("gpt_neox", "phi", "stablelm"), _whole_head),
    "phi3": _window,
    "exaone4": _exaone4,
    "olmo3": _olmo3,
    "ministral3": _ministral3,
    "mpt": _mpt,
    "bert": _bert,
    **dict.fromkeys(("roberta", "xlm-roberta"), _roberta),
    "nomic_bert": _nomic_bert,
}
"""Model type → settings that follow from several others."""
