"""CFG110–CFG119: fields that the adapter's PEFT type does not have, and when it had them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from adaptool.adapters.config import CONFIG_NAME
from adaptool.adapters.schema import default_of, fields_of, homes_of, nested_class, release
from adaptool.rules.draft import fields
from adaptool.rules.families.config_fields import newer
from adaptool.rules.finding import Problem
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject
from adaptool.tensors.jsons import SHOWN, shown

MOST = 10
"""Findings of one rule about one file: more say nothing new."""

SEARCHED = 100
"""Unknown fields that are compared with the known ones."""

MEANT = (
    ("rank", "r"), ("lora_r", "r"), ("lora_rank", "r"), ("dim", "r"), ("network_dim", "r"), ("rank_dim", "r"),
    ("alpha", "lora_alpha"), ("network_alpha", "lora_alpha"), ("lora_alpha", "alpha"), ("network_alpha", "alpha"),
    ("lora_alpha", "psoft_alpha"), ("lora_alpha", "randlora_alpha"), ("dropout", "lora_dropout"),
    ("rslora", "use_rslora"), ("dora", "use_dora"), ("targets", "target_modules"), ("lora_target", "target_modules"),
    ("modules", "target_modules"), ("lora_target_modules", "target_modules"), ("block_size", "oft_block_size"),
    ("base_model", "base_model_name_or_path"), ("model_name_or_path", "base_model_name_or_path"),
    ("base_model_name", "base_model_name_or_path"), ("num_tokens", "num_virtual_tokens"),
    ("init_weights", "init_lora_weights"), ("init_lora_weights", "init_weights"),
    ("init_weights", "init_ia3_weights"), ("version", "peft_version"),
)  # fmt: skip
"""What other tools and types call a field, and what PEFT does."""

TOOLS: Mapping[str, tuple[str, ...]] = {
    "unsloth": ("unsloth_fixed", "unsloth_version", "use_gradient_checkpointing", "max_seq_length", "random_state"),
    "ms-swift": ("lora_dtype", "lorap_lr_ratio", "lorap_emb_lr", "swift_type", "swift_version", "use_qa_lora"),
    "axolotl": ("loraplus_lr_ratio", "loraplus_lr_embedding", "peft_layers_to_transform", "lora_target_linear"),
    "MLX-LM": ("fine_tune_type", "lora_parameters", "lora_layers", "mask_prompt", "grad_checkpoint"),
    "vLLM": ("context_length", "vllm_lora_config", "vllm_max_position_embeddings", "vllm_lora_scaling_factor",
             "vllm_long_context_scaling_factor"),
    "LLaMA-Factory": ("finetuning_type", "pissa_init", "loraplus_lr_ratio", "additional_target"),
    "IBM's alora": ("invocation_string", "alora_invocation_string"),
    "kohya's scripts": ("network_module", "network_args", "conv_dim", "conv_alpha"),
}  # fmt: skip
"""Fields other tools put beside PEFT's, and do not need there."""

TOOL_OF = {name: tool for tool, names in TOOLS.items() for name in names}


@rule("CFG110", "warning", "a field PEFT does not have", needs=("config",), breaks=fields(lora_aplha=32))
def unknown_field(subject: Subject) -> Iterator[Problem]:
    """PEFT drops a field it does not know, with a warning that nobody reads: a misspelt one silently has no effect.

    Fields that other tools add, that a newer PEFT wrote, or that begin with an underscore are only told.

    Fix: correct the name, or delete the field.
    """
    known = fields_of(subject.peft_type)
    strange = [name for name in subject.fields if known and name not in known and not homes_of(name)]
    meant = {name: field for name in strange[:SEARCHED] if (field := _meant(name, known)) is not None}
    for name, field in list(meant.items())[:MOST]:
        yield Problem(
            f"PEFT drops {shown(name)}, which it does not know{_instead(subject, field)}; did you mean {field}?",
            CONFIG_NAME, _place(name), fix=f"Rename it to {field}.",
        )  # fmt: skip
    rest = [name for name in strange if name not in meant]
    later = newer(subject)
    others = [name for name in rest if _of(name, later)]
    if unknown := [name for name in rest if not _of(name, later)]:
        yield Problem(f"PEFT drops {_listed(unknown)}, which it does not know", CONFIG_NAME, _place(unknown[0]))
    if others:
        yield Problem(
            f"PEFT drops {_listed(others)}: {_of(others[0], later)}", CONFIG_NAME, _place(others[0]),
            fix="Nothing is needed.", severity="info",
        )  # fmt: skip
    yield from _nested(subject)


def _of(name: str, later: bool) -> str:
    """Why an unknown field is no mistake; "" where it may be one."""
    if name in TOOL_OF:
        return f"of {TOOL_OF[name]}"
    return "of a newer PEFT, it seems" if later else "a note of somebody's" if name.startswith("_") else ""


def _nested(subject: Subject) -> Iterator[Problem]:
    """Fields of a nested config that its class does not have: PEFT drops them, or raises."""
    for name, known in fields_of(subject.peft_type).items():
        inner, value = nested_class(known), subject.fields.get(name)
        if inner is None or not isinstance(value, dict) or name == "runtime_config":
            continue
        strange = [key for key in value if key not in fields_of(inner)]
        if strange:
            raises = inner == "MontecloraConfig"
            meant = _meant(strange[0], fields_of(inner))
            yield Problem(
                f"PEFT {'raises on' if raises else 'drops'} {_listed(strange)} in {name}"
                + (f"; did you mean {meant}?" if meant else ", which it does not know"),
                CONFIG_NAME, f"{name}.{_place(strange[0])}", severity="error" if raises else None,
            )  # fmt: skip


@rule("CFG111", "warning", "a field of another PEFT type", needs=("config",), breaks=fields(delora_lambda=16))
def other_types_field(subject: Subject) -> Iterator[Problem]:
    """PEFT drops a field its type does not have: alpha does nothing to a LoRA, nor lora_alpha to a LoHa.

    One that says what it says by default, as a config that was filled in for every type does, is only told.

    Fix: delete the field, or use the name that this type has for it.
    """
    known, kind = fields_of(subject.peft_type), subject.peft_type
    foreign = [name for name in subject.fields if known and name not in known and homes_of(name)]
    idle = [name for name in foreign if newer(subject) or _is_default(name, subject.fields[name])]
    telling = [name for name in foreign if name not in idle]
    meant = {name: field for name in telling if (field := _meant(name, known, guess=False)) is not None}
    for name, field in list(meant.items())[:MOST]:
        yield Problem(
            f"PEFT drops {name}, which {kind} calls {field}{_instead(subject, field)}", CONFIG_NAME, name,
            fix=f"Rename it to {field}, or delete it.",
        )  # fmt: skip
    rest = [name for name in telling if name not in meant]
    if rest:
        homes = homes_of(rest[0])
        of = f"of {', '.join(homes[:3])}{' and others' if len(homes) > 3 else ''}, and not of {kind}"
        yield Problem(f"PEFT drops {_listed(rest)}: {of}", CONFIG_NAME, rest[0])
    if idle:
        message = f"PEFT drops {_listed(idle)}: of other types, and not of {kind}"
        yield Problem(message, CONFIG_NAME, idle[0], fix="Nothing is needed.", severity="info")


def _is_default(name: str, value: object) -> bool:
    """Whether some type means nothing by this."""
    return not value or any(default_of(home, name) == value for home in homes_of(name))


@rule("CFG112", "info", "a field PEFT has given up", needs=("config",), breaks=fields(merge_weights=False))
def former_field(subject: Subject) -> Iterator[Problem]:
    """Configs of early releases hold fields that PEFT has since dropped: it ignores them.

    enable_lora is more: it says that one layer held several projections, of which only some were adapted, in a form
    that no PEFT since 0.3 loads.

    Fix: nothing is needed; saving the adapter with a current PEFT leaves them out.
    """
    former = {name: field["x-peft"]["until"] for name, field in fields_of(subject.peft_type).items()
              if name in subject.fields and field.get("deprecated") and "until" in field["x-peft"]}  # fmt: skip
    if former:
        fused = bool(former.get("enable_lora") and subject.fields["enable_lora"])
        listed = f"{', '.join(former)} {'is a field' if len(former) == 1 else 'are fields'}"
        message = f"{listed} of PEFT up to {max(former.values(), key=release)}, which later ones ignore"
        if fused:
            message += "; enable_lora says that these weights are of fused projections, which they do not load"
        yield Problem(message, CONFIG_NAME, next(iter(former)), severity="warning" if fused else None)


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
        yield Problem(f"peft_version is {shown(version)}, and {listed} came later, up to PEFT {newest}",
                      CONFIG_NAME, "peft_version")  # fmt: skip


def _meant(name: str, known: Mapping[str, Any], *, guess: bool = True) -> str | None:
    """The field that another name likely is a misspelling of, or another tool's or type's word for."""
    short = name[:SHOWN]
    same = {_plain(field): field for field in known}.get(_plain(short))
    words = {word: field for word, field in MEANT if field in known}
    if same or short in words:
        return same or words[short]
    near = difflib.get_close_matches(short, list(known), n=1, cutoff=0.8) if guess and len(name) <= SHOWN else []
    return near[0] if near and name not in TOOL_OF else None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower()) or name


def _instead(subject: Subject, field: str) -> str:
    """What PEFT takes for the field whose name was missed."""
    if field in subject.fields:
        return f" ({field} is there too, as {shown(subject.fields[field])})"
    return f", and takes {field} as {shown(default_of(subject.peft_type, field))}"


def _listed(names: Sequence[str]) -> str:
    """``"a"``, or ``3 fields ("a", "b" …)``."""
    if len(names) == 1:
        return shown(names[0])
    return f"{len(names)} fields ({', '.join(map(shown, names[:3]))}{' …' if len(names) > 3 else ''})"


def _place(name: str) -> str:
    """A stranger's name as a finding's field: escaped as in JSON, and short."""
    return shown(name).strip('"')
