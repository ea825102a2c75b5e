"""What an adapter's config says beyond rank, alpha and targets: its variant, and each field not at its default."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from adaptool.adapters.config import AdapterConfig
from adaptool.adapters.tuners.full import TASK_HEADS as TASK_HEADS
from adaptool.adapters.tuners.lora import MUTATING_INITS

TITLES = {"LORA": "LoRA", "ADALORA": "AdaLoRA", "LOHA": "LoHa", "LOKR": "LoKr", "VERA": "VeRA", "PVERA": "PVeRA",
          "VBLORA": "VB-LoRA", "RANDLORA": "RandLoRA", "DELORA": "DeLoRA", "GRALORA": "GraLoRA", "HIRA": "HiRA",
          "SHIRA": "SHiRA", "XLORA": "X-LoRA", "ROAD": "RoAd", "MISS": "MiSS", "TINYLORA": "TinyLoRA",
          "FOURIERFT": "FourierFT", "WAVEFT": "WaveFT", "UNILORA": "Uni-LoRA", "FROD": "FRoD", "GLORA": "GLoRA",
          "BONE": "Bone", "PROMPT_TUNING": "prompt tuning", "PREFIX_TUNING": "prefix tuning", "P_TUNING": "p-tuning",
          "MULTITASK_PROMPT_TUNING": "multitask prompt tuning", "ADAPTION_PROMPT": "adaption prompt",
          "LN_TUNING": "LayerNorm tuning", "TRAINABLE_TOKENS": "trainable tokens"}  # fmt: skip
"""PEFT types as their authors write them; the others are acronyms."""

VARIANTS = {
    "use_rslora": "rsLoRA", "use_dora": "DoRA", "use_bdlora": "BD-LoRA", "kasa_config": "KaSA",
    "velora_config": "VeLoRA", "monteclora_config": "MonteCLoRA", "alora_invocation_tokens": "aLoRA",
    "use_qalora": "QA-LoRA", "arrow_config": "Arrow", "layer_replication": "layer replication",
}  # fmt: skip
"""LoRA's fields that make it another thing."""

INITS = MUTATING_INITS | {"eva": "EVA", "mica": "MiCA"}

LORA_DEFAULTS: Mapping[str, Any] = {
    "r": 8, "target_modules": None, "exclude_modules": None, "lora_alpha": 8, "lora_dropout": 0.0,
    "fan_in_fan_out": False, "bias": "none", "use_rslora": False, "modules_to_save": None, "init_lora_weights": True,
    "layers_to_transform": None, "layers_pattern": None, "rank_pattern": {}, "alpha_pattern": {},
    "megatron_config": None, "megatron_core": "megatron.core", "trainable_token_indices": None, "loftq_config": {},
    "eva_config": None, "corda_config": None, "lora_ga_config": None, "use_dora": False, "velora_config": None,
    "alora_invocation_tokens": None, "use_qalora": False, "qalora_group_size": 16, "monteclora_config": None,
    "layer_replication": None, "lora_bias": False, "target_parameters": None, "use_bdlora": None,
    "arrow_config": None, "kasa_config": None, "ensure_weight_tying": False,
}  # fmt: skip
"""LoraConfig of PEFT 0.21."""

TRIVIAL: tuple[Any, ...] = (None, [], {}, False, 0.0, "none", "")
"""What a field of another type holds when it says nothing; so does ``init_weights: true``."""

COMMON_FIELDS = {"task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
                 "inference_mode"}  # fmt: skip
"""Of every PEFT type; shown elsewhere, or of no interest once saved."""

SHOWN_ELSEWHERE = {"r", "lora_alpha", "alpha", "target_modules", "modules_to_save", "runtime_config", "megatron_core"}


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of a config, as text."""

    name: str
    value: str


def title(peft_type: str) -> str:
    """A PEFT type's name for people."""
    return TITLES.get(peft_type, peft_type.replace("_", " "))


def variants(config: AdapterConfig) -> tuple[str, ...]:
    """What kind of LoRA it is: ``rsLoRA``, ``DoRA``, ``PiSSA``, …"""
    if config.peft_type != "LORA":
        return ()
    named = [name for field, name in VARIANTS.items() if _is_on(config.fields.get(field))]
    init = config.fields.get("init_lora_weights")
    if isinstance(init, str):
        named += [name for key, name in INITS.items() if init.lower().startswith(key)]
    return tuple(named)


def _is_on(value: object) -> bool:
    """An empty ``kasa_config: {}`` is on too."""
    return isinstance(value, dict) or bool(value)


def settings(config: AdapterConfig) -> tuple[Setting, ...]:
    """The fields that say something: not at their default, and not shown elsewhere in a summary."""
    hidden = COMMON_FIELDS | SHOWN_ELSEWHERE | {name for name in VARIANTS if config.fields.get(name) is True}
    lora = config.peft_type == "LORA"
    return tuple(
        Setting(name, _text(value))
        for name, value in config.fields.items()
        if name not in hidden and not (_at_default(name, value) if lora else value in TRIVIAL or name == "init_weights")
    )


def _at_default(name: str, value: Any) -> bool:
    default = LORA_DEFAULTS.get(name)
    return value in (None, [], {}) or (value == default and type(value) is type(default))


def _text(value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return ", ".join(sorted(value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def unknown_fields(config: AdapterConfig) -> Iterator[str]:
    """Fields of a LoRA config that no PEFT up to 0.21 has: from a newer PEFT, or from another tool."""
    if config.peft_type == "LORA":
        yield from (name for name in config.fields if name not in {*LORA_DEFAULTS, *COMMON_FIELDS, "runtime_config"})
