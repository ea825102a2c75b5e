"""A config as what it does: one form for all the ways in which PEFT's releases, and people, write the same adapter.

Digests are taken over this form. A set may come in any order, a default may be written out or left out, 16 may be
16.0, null may be an empty list; and half of what a config says was of use in training alone. docs/decisions/0010 has
the rules. A field left out here is one that can change without changing what the adapter computes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from adaptool.adapters.config import AdapterConfig
from adaptool.adapters.names import endings_of
from adaptool.adapters.patterns import PLAIN
from adaptool.adapters.schema import Schema, default_of, fields_of, nested_class, release
from adaptool.adapters.tuners.full import TASK_HEADS
from adaptool.adapters.tuners.lora import HARMLESS_INITS
from adaptool.adapters.tuners.unmergeable import PROMPTS
from adaptool.errors import FormatError

DEEPEST = 32
"""Levels that are put in order; PEFT's own configs have three."""

BASE_FIELDS = ("base_model_name_or_path", "revision")
"""Which model it is for: compared on its own."""

SETS = {"target_modules", "exclude_modules", "modules_to_save", "target_parameters", "feedforward_modules",
        "layers_to_transform", "layers_pattern", "target_modules_bd_a", "target_modules_bd_b"}  # fmt: skip
"""Lists of which neither order nor repetition means anything."""

LONE = {"layers_to_transform": int, "layers_pattern": str, "modules_to_save": str}
"""Sets of which one alone may stand without its list; a lone target_modules is a regular expression instead."""

PATTERNS = {"rank_pattern": ("r", "effective_rank"), "alpha_pattern": ("lora_alpha", "alpha"),
            "block_size_pattern": ("block_size",), "n_frequency_pattern": ("n_frequency",),
            "lambda_pattern": ("delora_lambda",)}  # fmt: skip
"""Fields that map patterns of modules to other values than that of a field; the first pattern that matches counts."""

METADATA = {
    "peft_version": "metadata (which PEFT saved it)",
    "inference_mode": "metadata (whether it was saved for use)",
    "auto_mapping": "metadata (which class the base was loaded with)",
    "runtime_config": "metadata (PEFT ignores it in a file)",
}
"""Fields that say nothing of what the adapter does, and why."""

INITIAL = "it only sets what training began with"
TRAINING = "training only"
CORRECTED = "PEFT decides it by layer"

DROPOUTS = ("xlora_dropout_p", "rank_dropout_scale")
"""Those whose names do not end in _dropout."""

TRAINING_ONLY: Mapping[str, tuple[str, ...]] = {
    "ADALORA": ("r", "target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step"),
    "ADAMSS": ("use_asa", "asa_importance_beta", "asa_uncertainty_beta", "asa_schedule_exponent",
               "asa_target_subspaces", "init_warmup", "final_warmup", "mask_interval"),
    "FROD": ("progressbar", "runtime_offload_base_weight"),
    "SHADOW": ("auxiliary_loss_weight",),
}  # fmt: skip
"""By PEFT type, what steers its training; dropouts, which all types have, are told by their names."""

INITS = {"init_weights", "init_lora_weights", "init_ia3_weights"}
"""Whether, or how, an adapter's weights are initialised; a word may also say how the base's are changed."""

PROMPT_INITS = ("prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs")

INITS_OF: Mapping[str, tuple[str, ...]] = {
    "VBLORA": ("init_logits_std", "init_vector_bank_bound"),
    "UNILORA": ("init_theta_d_bound",),
    "TINYLORA": ("init_v_bound",),
    "DEFT": ("init_scale",),
    "VERA": ("d_initial",),
    "PVERA": ("d_initial",),
    "PROMPT_TUNING": PROMPT_INITS,
    "MULTITASK_PROMPT_TUNING": (*PROMPT_INITS, "prompt_tuning_init_state_dict_path", "prompt_tuning_init_task"),
}
"""By PEFT type, what its weights began with, all of which the file holds as they became."""


def canonical_fields(config: AdapterConfig) -> Mapping[str, Any]:
    """The fields that decide what an adapter computes, each in its one form, none at what it meant when it came.

    That is the default of the field's first release, which no later release changes: a digest stays what it is when
    PEFT gets a new field or a new default. base_model_name_or_path and revision are not among them.
    """
    kind, every = peft_type_of(config), explicit_fields(config)
    kept = {
        name: value
        for name, value in every.items()
        if name not in BASE_FIELDS and not inert(name, kind, every) and not _at_first(name, value, kind)
    }
    return MappingProxyType({"peft_type": kind, **kept} if kind else kept)


def peft_type_of(config: AdapterConfig) -> str:
    """The type in capitals, "" where the config has none."""
    value = config.fields.get("peft_type")
    return value.upper() if isinstance(value, str) else ""


def explicit_fields(config: AdapterConfig) -> Mapping[str, Any]:
    """Every field the config's PEFT knows for its type, defaults written out, and the file's others; in normal form."""
    kind, version = peft_type_of(config), saved_by(config)
    known = fields_of(kind)
    missing = {name: default_of(kind, name, version) for name in known if name not in config.fields}
    try:
        values = {name: normal(name, value, known.get(name)) for name, value in {**config.fields, **missing}.items()}
    except RecursionError:
        raise FormatError(f"{config.where}: the config is nested absurdly deep", defect="too-deep") from None
    for pattern, fields in PATTERNS.items():
        plain = next((field for field in fields if field in values), None)
        if plain is not None and isinstance(values.get(pattern), dict):
            values[pattern] = _without_repeats(values[pattern], values[plain])
    values.pop("peft_type", None)
    return values


def saved_by(config: AdapterConfig) -> str | None:
    """The PEFT that saved it, where it says so in a way that can be understood."""
    version = config.fields.get("peft_version")
    return version if isinstance(version, str) and release(version) else None


def normal(name: str, value: Any, known: Schema | None) -> Any:
    """A field's value in its one form; None stands for every way to say nothing."""
    value = _plain(value)
    if name in LONE and type(value) is LONE[name]:
        value = [value]
    if name in SETS and isinstance(value, list):
        value = [item for _, item in sorted({_text(item): item for item in value}.items())]
    if isinstance(value, str) and name == "task_type":
        value = value.upper()
    inner = nested_class(known) if known is not None else None
    if inner is not None and isinstance(value, dict):
        value = _nested(inner, value)
    if isinstance(value, dict) and name in PATTERNS and _order_matters(value):
        return [[key, part] for key, part in value.items()]
    on_when_empty = inner is not None and known is not None and known["default"] is None
    return None if value == [] or (value == {} and not on_when_empty) else value


def _plain(value: Any, depth: int = 0) -> Any:
    """Whole numbers as integers, whatever their point."""
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value.is_integer() and abs(value) < 2**53 else value
    if depth < DEEPEST and isinstance(value, dict):
        return {key: _plain(part, depth + 1) for key, part in value.items()}
    if depth < DEEPEST and isinstance(value, list):
        return [_plain(part, depth + 1) for part in value]
    return value


def _nested(home: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """A config inside a config, without what it would be anyway."""
    known = fields_of(home)
    parts = {name: normal(name, part, known.get(name)) for name, part in value.items()}
    return {name: part for name, part in parts.items()
            if name not in known or not same(part, normal(name, known[name]["default"], known[name]))}  # fmt: skip


def _order_matters(patterns: Mapping[str, Any]) -> bool:
    """Whether some module may match two of the patterns, so that the first of them counts."""
    if len(patterns) < 2:
        return False
    return not all(PLAIN.fullmatch(key) and (endings_of(key) & patterns.keys()) == {key} for key in patterns)


def _without_repeats(patterns: Mapping[str, Any], usual: Any) -> Mapping[str, Any] | None:
    """Patterns without those that say what holds for every module anyway."""
    return {key: value for key, value in patterns.items() if not same(value, usual)} or None


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same: True is not 1."""
    if isinstance(one, dict | list) and isinstance(other, dict | list):
        return _text(one) == _text(other)
    return type(one) is type(other) and bool(one == other)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _at_first(name: str, value: Any, kind: str) -> bool:
    """Whether a field says what it said before anybody set it; an unknown one, whether it is off."""
    known = fields_of(kind).get(name)
    if known is None:
        return value is None or value is False
    history: Mapping[str, Any] = known["x-peft"].get("defaults", {})
    first = next(iter(history.values())) if history else known["default"]
    return same(value, normal(name, first, known))


def inert(name: str, kind: str, fields: Mapping[str, Any]) -> str:
    """Why a field changes nothing of what the adapter computes; "" where it may. ``fields``: all, in normal form."""
    if name in METADATA:
        return METADATA[name]
    if name not in fields_of(kind):
        return ""
    if name == "fan_in_fan_out":
        return CORRECTED
    if name == "task_type":
        return "" if kind in PROMPTS or str(fields[name]) in TASK_HEADS else "it only says what the base is loaded for"
    if name.endswith("_dropout") or name in DROPOUTS or name in TRAINING_ONLY.get(kind, ()):
        return TRAINING
    if name in INITS_OF.get(kind, ()) or (name in INITS and harmless_init(fields[name])):
        return INITIAL
    needs = INERT_WITHOUT.get(name)
    return "" if needs is None or needs[0](fields) else needs[1]


def harmless_init(value: Any) -> bool:
    """Whether an initialisation leaves the base's weights alone, and says no more of the adapter's kind."""
    words = (*HARMLESS_INITS, "xavier_uniform", "kaiming_uniform")
    return value is None or isinstance(value, bool) or (isinstance(value, str) and value.lower() in words)


def _begins(word: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda fields: str(fields.get("init_lora_weights")).lower().startswith(word)


INERT_WITHOUT: Mapping[str, tuple[Callable[[Mapping[str, Any]], bool], str]] = {
    "eva_config": (lambda _: False, INITIAL),
    "corda_config": (_begins("corda"), 'unused: init_lora_weights is not "corda"'),
    "lora_ga_config": (_begins("lora_ga"), 'unused: init_lora_weights is not "lora_ga"'),
    "loftq_config": (_begins("loftq"), 'unused: init_lora_weights is not "loftq"'),
    "megatron_core": (lambda fields: bool(fields.get("megatron_config")), "unused: there is no megatron_config"),
    "qalora_group_size": (lambda fields: bool(fields.get("use_qalora")), "unused: use_qalora is off"),
}
"""Fields that only count where another one says so."""
