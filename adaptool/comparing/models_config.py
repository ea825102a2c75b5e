"""The config.json of two models, setting by setting, and what each that differs does.

The rotary settings, which move between ``rope_theta``, ``rope_scaling`` and ``rope_parameters``, are compared under one
name, and a setting that one file leaves out counts at what its class assumes, where that is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from adaptool.adapters.base import BaseModel
from adaptool.archs.gguf.hparams import Hparams
from adaptool.archs.gguf.tables import BY_ARCHITECTURE
from adaptool.comparing.result import ConfigChange
from adaptool.errors import FormatError

DEEPEST = 4
"""Levels of nesting that are taken apart; deeper ones are compared whole."""

ROPE = {"rope_theta", "rope_scaling", "rope_parameters", "rotary_emb_base", "rotary_pct", "rope_pct",
        "partial_rotary_factor", "rope_local_base_freq", "local_rope_theta", "global_rope_theta"}  # fmt: skip
UNTURNED = {"rope.rope_theta": 10000.0, "rope.rope_type": "default", "rope.partial_rotary_factor": 1.0}
"""What nearly every class assumes of its rotary settings."""
NAMES = {"torch_dtype": "dtype", "n_embd": "hidden_size", "n_layer": "num_hidden_layers",
         "n_head": "num_attention_heads"}  # fmt: skip
"""What a setting is called elsewhere."""

EFFECTS = {
    "model_type": "another architecture",
    "architectures": "loaded as another class",
    "hidden_size": "another width",
    "intermediate_size": "another width inside the MLP",
    "num_hidden_layers": "another number of layers",
    "num_attention_heads": "the same weights cut into other heads",
    "num_key_value_heads": "the same weights cut into other key and value heads",
    "head_dim": "another width of the heads",
    "vocab_size": "another number of rows in embedding and head",
    "tie_word_embeddings": "whether the output head is the embedding",
    "rms_norm_eps": "the ε of every normalisation",
    "layer_norm_eps": "the ε of every normalisation",
    "layer_norm_epsilon": "the ε of every normalisation",
    "rope.rope_theta": "positions turn at another rate",
    "rope.rope_type": "positions are stretched otherwise",
    "rope.factor": "positions are stretched by another factor",
    "sliding_window": "how far back attention sees",
    "hidden_act": "another activation",
    "hidden_activation": "another activation",
    "num_experts_per_tok": "another number of experts for each token",
    "id2label": "what the classes are called",
    "label2id": "what the classes are called",
    "eos_token_id": "where generation stops",
    "bos_token_id": "what generation begins with",
    "quantization_config": "how the weights are stored",
}
"""In words, of settings that are known; any other that both files name may change what is computed."""

HARMLESS = {
    "dtype": "the type it is loaded in",
    "max_position_embeddings": "how long a context it is said to take",
    "quantization_config": "how the weights are stored",
    "initializer_range": "in training alone",
    "use_cache": "",
    "transformers_version": "",
    "_name_or_path": "",
    "_attn_implementation_autoset": "",
    "attn_implementation": "",
    "_attn_implementation": "",
    "pretraining_tp": "",
    "output_attentions": "",
    "output_hidden_states": "",
    "return_dict": "",
    "torchscript": "",
    "auto_map": "which code of its own it is loaded with",
    "router_aux_loss_coef": "in training alone",
    "output_router_logits": "in training alone",
    "unsloth_version": "",
    "unsloth_fixed": "",
    "gradient_checkpointing": "in training alone",
    "problem_type": "in training alone",
}
"""Settings that change nothing of what the model computes, and what they are for."""


def compare_model_configs(before: BaseModel, after: BaseModel) -> tuple[ConfigChange, ...]:
    """Every setting that differs; none where one of the two has no config.json.

    A GGUF's is made from its metadata, which holds a part of the settings: then those that both have are compared.
    """
    if before.config is None or after.config is None:
        return ()
    old, new = settings_of(before.config), settings_of(after.config)
    partial = before.beside is not None or after.beside is not None
    if partial:
        old, new = ({k: v for k, v in one.items() if k in other and _in_metadata(k)}
                    for one, other in ((old, new), (new, old)))  # fmt: skip
    assumed = _defaults(before.config), _defaults(after.config)
    changes = (_change(name, old, new, assumed) for name in sorted({**old, **new}))
    return tuple(change for change in changes if change is not None)


def _in_metadata(name: str) -> bool:
    """Whether a GGUF's metadata tells a setting as the config.json it came from did, and not only as well."""
    return (name in EFFECTS or name.startswith("rope.")) and name not in {"architectures", "model_type", *HARMLESS}


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a config.json by dotted name, the text model's own at the top, under today's names."""
    nested = config.get("text_config")
    given = {**config, **(nested if isinstance(nested, dict) else {})}
    given.pop("text_config", None)
    if isinstance(config.get("model_type"), str):
        given["model_type"] = config["model_type"]
    plain = {NAMES.get(name, name): value for name, value in given.items() if name not in ROPE}
    try:
        rope = dict(Hparams(config, {}).rope)
    except FormatError:
        rope = {name: given[name] for name in ROPE if name in given}
    rope.pop("type", None)
    return dict(_flat("", {**plain, "rope": rope}, DEEPEST))


def _flat(prefix: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value and depth:
        for key, inner in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), inner, depth - 1)
    else:
        yield prefix, value


def _change(
    name: str, old: Mapping[str, Any], new: Mapping[str, Any], assumed: tuple[Hparams, Hparams]
) -> ConfigChange | None:
    before, after = (
        side[name] if name in side else _assumed(name, defaults)
        for side, defaults in zip((old, new), assumed, strict=True)
    )
    if before == after and isinstance(before, bool) == isinstance(after, bool):
        return None
    leaf = name.partition(".")[0]
    harmless = leaf in HARMLESS or "dropout" in name or leaf.startswith("_")
    both = before is not None and after is not None
    # what only one file names is mostly a default that a newer library wrote out
    told = both or leaf in ("rope", *EFFECTS)
    effect = HARMLESS.get(leaf, "in training alone" if "dropout" in name else "") if harmless else _effect(name, told)
    side = "" if name in old and name in new else "before" if name not in old else "after"
    matters = not harmless and told and not _negligible(before, after)
    return ConfigChange(name, before, after, effect, matters, side)  # type: ignore[arg-type]


def _effect(name: str, told: bool) -> str:
    known = EFFECTS.get(name) or EFFECTS.get(name.partition(".")[0])
    if known:
        return known
    if name.startswith("rope."):
        return "positions are turned otherwise"
    return "may change what is computed" if told else "said in one of the two only: mostly a default written out"


def _negligible(before: Any, after: Any) -> bool:
    """Whether a setting that one file names says what leaving it out says: nothing."""
    return (before is None and not after) or (after is None and not before)


def _defaults(config: Mapping[str, Any]) -> Hparams:
    """The config with what its class assumes, where a table knows the class."""
    spec = BY_ARCHITECTURE.get(Hparams(config, {}).architecture)
    return Hparams(config, spec.defaults if spec else {})


def _assumed(name: str, hparams: Hparams) -> Any:
    try:
        return hparams.find(name.removeprefix("rope."), default=UNTURNED.get(name))
    except (FormatError, TypeError, ArithmeticError):  # what is assumed is computed from settings that make no sense
        return None
