"""CFG110–CFG119: fields that the adapter's PEFT type does not have, and when it had them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from adaptool.adapters.config import CONFIG_NAME
from adaptool.rules.config_schema import default_of, fields_of, homes_of, nested_class, release
from adaptool.rules.document import SHOWN, shown
from adaptool.rules.draft import fields
from adaptool.rules.families.config_fields import newer
from adaptool.rules.finding import Problem
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject

MOST = 10
"""Findings of one rule about one file: more say nothing new."""

MEANT = {
    "rank": "r", "lora_r": "r", "lora_rank": "r", "dim": "r", "network_dim": "r", "alpha": "lora_alpha",
    "network_alpha": "lora_alpha", "scaling_alpha": "lora_alpha", "dropout": "lora_dropout", "rslora": "use_rslora",
    "dora": "use_dora", "targets": "target_modules", "lora_target": "target_modules", "modules": "target_modules",
    "lora_target_modules": "target_modules", "base_model": "base_model_name_or_path", "version": "peft_version",
    "model_name_or_path": "base_model_name_or_path", "base_model_name": "base_model_name_or_path",
    "lora_bias_type": "bias", "block_size": "oft_block_size", "num_tokens": "num_virtual_tokens",
}  # fmt: skip
"""What other tools call a field, and what PEFT does."""

TOOLS: Mapping[str, tuple[str, ...]] = {
    "unsloth": ("unsloth_fixed", "unsloth_version", "use_gradient_checkpointing", "max_seq_length", "random_state"),
    "ms-swift": ("lora_dtype", "lorap_lr_ratio", "lorap_emb_lr", "swift_type", "swift_version", "use_qa_lora"),
    "axolotl": ("loraplus_lr_ratio", "loraplus_lr_embedding", "peft_layers_to_transform", "lora_target_linear"),
    "MLX-LM": ("fine_tune_type", "lora_parameters", "lora_layers", "mask_prompt", "grad_checkpoint"),
    "vLLM": ("context_length", "vllm_lora_config", "vllm_max_position_embeddings", "vllm_lora_scaling_factor",
             "vllm_long_context_scaling_factor"),
    "LLaMA-Factory": ("finetuning_type", "pissa_init", "loraplus_lr_ratio", "additional_target"),
    "IBM's aLoRA": ("invocation_string", "alora_invocation_string"),
    "kohya's scripts": ("network_module", "network_args", "conv_dim", "conv_alpha"),
}  # fmt: skip
"""Fields other tools put beside PEFT's, and do not need there."""


@rule("CFG110", "warning", "a field PEFT does not have", needs=("config",), breaks=fields(lora_aplha=32))
def unknown_field(subject: Subject) -> Iterator[Problem]:
    """PEFT drops a field it does not know, with a warning that nobody reads: a misspelt one silently has no effect.

    Fields that other tools add, that a newer PEFT wrote, or that begin with an underscore are only told.

    Fix: correct the name, or delete the field.
    """
    known = fields_of(subject.peft_type)
    if not known:
        return
    strange: list[str] = []
    told: list[str] = []
    for name in subject.fields:
        if name in known or _belongs(name):
            continue
        meant = _meant(name, known)
        if meant is None:
            (told if name.startswith("_") or newer(subject) or _tool(name) else strange).append(name)
        elif len(told) < MOST:
            yield Problem(
                f"{shown(name)} is no field of PEFT's; did you mean {meant}?{_instead(subject, meant)}",
                CONFIG_NAME, name, fix=f"Rename it to {meant}.",
            )  # fmt: skip
    if strange:
        yield Problem(f"{_named(strange)} PEFT does not know and drops", CONFIG_NAME, strange[0])
    if told:
        tool = _tool(told[0])
        whose = "a newer PEFT's" if newer(subject) else f"of {tool}'s" if tool else "of somebody's own"
        yield Problem(f"{_named(told)} {whose}, which PEFT drops", CONFIG_NAME, told[0], severity="info")
    yield from _nested(subject)


def _nested(subject: Subject) -> Iterator[Problem]:
    """Fields of a nested config that its class does not have: PEFT drops them, or raises."""
    for name, known in fields_of(subject.peft_type).items():
        inner, value = nested_class(known), subject.fields.get(name)
        if inner is None or not isinstance(value, dict) or known.get("deprecated"):
            continue
        strange = [key for key in value if key not in fields_of(inner)]
        if strange:
            raises = inner == "MontecloraConfig"
            meant = _meant(strange[0], fields_of(inner))
            yield Problem(
                f"{name} has {_named(strange)} {inner} {'raises on' if raises else 'does not have'}"
                + (f"; did you mean {meant}?" if meant else ""),
                CONFIG_NAME, f"{name}.{strange[0][:SHOWN]}", severity="error" if raises else None,
            )  # fmt: skip


@rule("CFG111", "warning", "a field of another PEFT type", needs=("config",), breaks=fields(delora_lambda=15))
def other_types_field(subject: Subject) -> Iterator[Problem]:
    """PEFT drops a field its type does not have: alpha does nothing to a LoRA, nor lora_alpha to a LoHa.

    Fix: delete the field, or use the name that this type has for it.
    """
    known = fields_of(subject.peft_type)
    found = [name for name in subject.fields if known and name not in known and _belongs(name)]
    for name in found[:MOST]:
        homes = homes_of(name)
        of = f"{', '.join(homes[:3])}{' and others' if len(homes) > 3 else ''}"
        meant = _meant(name, known, cutoff=2)
        here = f"; here it is called {meant}{_instead(subject, meant)}" if meant else ""
        yield Problem(f"{name} is a field of {of}, and {subject.peft_type} has none{here}", CONFIG_NAME, name,
                      severity="info" if subject.fields[name] in (None, False) or newer(subject) else None)  # fmt: skip


@rule("CFG112", "info", "a field PEFT has given up", needs=("config",), breaks=fields(merge_weights=False))
def former_field(subject: Subject) -> Iterator[Problem]:
    """Configs of early releases hold fields that PEFT has since dropped: it ignores them.

    enable_lora is more: it says that one layer held several projections, of which only some were adapted, in a form
    that no PEFT since 0.3 loads.

    Fix: nothing is needed; saving the adapter with a current PEFT leaves them out.
    """
    for name, known in fields_of(subject.peft_type).items():
        if name in subject.fields and known.get("deprecated"):
            used = name == "enable_lora" and bool(subject.fields[name])
            until = known["x-peft"].get("until", "")
            message = f"{name} is a field of PEFT up to {until}, which newer ones ignore"
            if used:
                message += "; these weights are of fused projections, which they do not load"
            yield Problem(message, CONFIG_NAME, name, severity="warning" if used else None)
    if "runtime_config" in subject.fields and "runtime_config" in fields_of(subject.peft_type):
        yield Problem("runtime_config is for a running model; PEFT ignores it in a file", CONFIG_NAME, "runtime_config")


@rule("CFG113", "info", "fields newer than the PEFT that wrote them", needs=("config",),
      breaks=fields(peft_version="0.20.0"))  # fmt: skip
def anachronism(subject: Subject) -> Iterator[Problem]:
    """peft_version stays what it was when an adapter is saved again by a newer PEFT, or somebody edited the config.

    Fix: nothing is needed; do not rely on peft_version to tell how it was trained.
    """
    version = subject.fields.get("peft_version")
    if not isinstance(version, str) or not release(version):
        return
    known = fields_of(subject.peft_type)
    late = [name for name in subject.fields if name in known and
            release(known[name]["x-peft"]["since"])[:2] > release(version)[:2]]  # fmt: skip
    if late:
        newest = max((known[name]["x-peft"]["since"] for name in late), key=release)
        listed = ", ".join(late[:3]) + (f" and {len(late) - 3} more" if len(late) > 3 else "")
        yield Problem(f"peft_version is {shown(version)}, and {listed} came with PEFT {newest.removesuffix('.0')}",
                      CONFIG_NAME, "peft_version")  # fmt: skip


def _belongs(name: str) -> bool:
    """Whether a field is another PEFT type's."""
    return bool(homes_of(name))


def _tool(name: str) -> str | None:
    return next((tool for tool, names in TOOLS.items() if name in names), None)


def _meant(name: str, known: Mapping[str, Any], cutoff: float = 0.8) -> str | None:
    """The field that a name not among ``known`` is likely a misspelling or another tool's word of."""
    plain = {re.sub(r"[^a-z0-9]", "", field.lower()): field for field in known}
    short = name[:SHOWN]
    if (same := plain.get(re.sub(r"[^a-z0-9]", "", short.lower()))) is not None:
        return same
    words = {word: field for word, field in MEANT.items() if field in known}
    words |= {"lora_alpha": "alpha"} if "alpha" in known else {}
    if short in words:
        return words[short]
    near = difflib.get_close_matches(short, list(known), n=1, cutoff=cutoff) if cutoff <= 1 else []
    return near[0] if near and not _tool(name) else None


def _instead(subject: Subject, meant: str) -> str:
    """What PEFT takes for a field whose name was missed."""
    if meant in subject.fields:
        return f" It is there too, as {shown(subject.fields[meant])}"
    return f" PEFT takes {meant} = {shown(default_of(subject.peft_type, meant))}"


def _named(names: Sequence[str]) -> str:
    """``the field "a"``, or ``3 fields ("a", "b" …)``."""
    if len(names) == 1:
        return f"the field {shown(names[0])}"
    return f"{len(names)} fields ({', '.join(map(shown, names[:3]))}{' …' if len(names) > 3 else ''})"
