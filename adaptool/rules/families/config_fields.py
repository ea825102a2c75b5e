"""CFG100–CFG109: the values of its fields, against the schema of its PEFT type and what PEFT's configs refuse."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from itertools import groupby

from adaptool.adapters.config import CONFIG_NAME
from adaptool.adapters.schema import LONG, Fault, Kind, faults, fields_of, newest_peft, release
from adaptool.rules.configs.refusals import refused
from adaptool.rules.draft import fields
from adaptool.rules.finding import Problem, Severity
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject
from adaptool.tensors.jsons import SHOWN, shown

MOST = 10
"""Findings of one rule about one file: more say nothing new."""

IDLE = {"inference_mode", "fan_in_fan_out", "qalora_group_size", "progressbar"}
"""Fields that a finished adapter loads and merges the same without, whatever they hold."""

ELSEWHERE = {"auto_mapping", "megatron_core", "peft_version", "runtime_config"}
"""Fields that rules of their own judge, type and all: what they say would be imported, or is read by its version."""

SCALES = {"r", "lora_dropout"}
PATTERNS = {"rank_pattern", "n_frequency_pattern", "block_size_pattern"}
"""Numbers whose range the rules of scales judge: LoRA's own, and ranks of any type by module."""

LENIENT = {"rank_dropout", "module_dropout", "encoder_dropout"}
"""Dropouts that PEFT reads in training only, and does not check."""

STRICT = {"SHADOW", "SUPERTUNING", "UNILORA"}
"""Types that refuse a dropout below 0; the others take it for none."""

NEEDED = {
    "num_virtual_tokens": {"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CARTRIDGE"},
    "adapter_len": {"ADAPTION_PROMPT"},
    "adapter_layers": {"ADAPTION_PROMPT"},
}
"""Fields whose default is null, and which PEFT cannot load an adapter of these types without."""


def faults_of(subject: Subject, kind: Kind | None = None) -> Sequence[Fault]:
    """The values the schema does not take, found once; none of fields that PEFT no longer reads."""

    def work() -> tuple[Fault, ...]:
        known = fields_of(subject.peft_type)
        found = faults(subject.peft_type, subject.fields)
        return tuple(f for f in found if f.top not in ELSEWHERE and not known[f.top].get("deprecated"))

    found = subject.once("config_faults", work)
    return [fault for fault in found if kind in (None, fault.kind)]


def _by_field(found: Sequence[Fault]) -> Iterator[tuple[Fault, str]]:
    """The first fault of each field, and how many more there are of it."""
    for _, group in groupby(found, lambda fault: fault.top):
        first, *more = group
        count = len(more) if len(more) < LONG - 1 else "hundreds"
        yield first, f" (and {count} more in {first.top})" if more else ""


@rule("CFG100", "error", "a value of the wrong type", needs=("config",), breaks=fields(lora_alpha="16"))
def wrong_type(subject: Subject) -> Iterator[Problem]:
    """PEFT does not check types: text where a number belongs raises deep in a layer, or silently means true.

    Any text is true to Python, "false" as well; true counts as 1; and PEFT makes tensors of r rows, which 8.0 is not.
    Null for false is taken as false, and only told.

    Fix: write the value as the type it should have, without quotes where it is a number or true or false.
    """
    for fault, more in list(_by_field(faults_of(subject, "type")))[:MOST]:
        known = fields_of(subject.peft_type)[fault.top]
        flag = fault.value is None and fault.field == fault.top and "boolean" in str(known.get("type", known))
        severity: Severity = "info" if flag else "warning" if fault.top in IDLE else "error"
        note = "; PEFT takes it for false" if flag else _truth(fault)
        yield Problem(fault.message + note + more, CONFIG_NAME, fault.field, severity=severity)


def _truth(fault: Fault) -> str:
    """What Python makes of a value where a truth value belongs."""
    if not fault.message.startswith(f"{fault.field} must be true or false,") or isinstance(fault.value, bool):
        return ""
    return f", which counts as {str(bool(fault.value)).lower()}"


@rule("CFG101", "error", "a word PEFT does not know", needs=("config",), breaks=fields(bias="some"))
def unknown_word(subject: Subject) -> Iterator[Problem]:
    """Fields of fixed choices (bias, init_lora_weights …) raise on any other word when PEFT loads them.

    Fix: write one of the words listed.
    """
    found = [fault for fault in faults_of(subject, "word") if fault.top != "task_type"]
    for fault, more in list(_by_field(found))[:MOST]:
        near = difflib.get_close_matches(str(fault.value)[:SHOWN].lower(), [w.lower() for w in fault.words], n=1)
        word = next((w for w in fault.words if near and w.lower() == near[0]), None)
        yield Problem(
            fault.message + (f"; did you mean {shown(word)}?" if word else "") + more, CONFIG_NAME, fault.field,
            fix=f"Write {shown(word)}." if word else "",
            severity="warning" if newer(subject) else None,
        )  # fmt: skip


@rule("CFG102", "error", "a number out of its range", needs=("config",),
      breaks=fields(init_lora_weights="eva", eva_config={"rho": 0.5}))  # fmt: skip
def out_of_range(subject: Subject) -> Iterator[Problem]:
    """PEFT's configs, or the layers they build, refuse such a number; some dropouts are only wrong for training.

    LoRA's own r, alphas and dropout are judged by the rules of scales.

    Fix: set the number the adapter was trained with; the shapes of its tensors often tell.
    """
    others = PATTERNS | SCALES if subject.peft_type == "LORA" else PATTERNS
    found = [fault for fault in faults_of(subject, "range") if fault.top not in others]
    for fault, more in list(_by_field(found))[:MOST]:
        mild = fault.top in LENIENT or ("dropout" in fault.top and fault.value < 0 and subject.peft_type not in STRICT)
        yield Problem(fault.message + more, CONFIG_NAME, fault.field, severity="warning" if mild else None)


@rule("CFG103", "error", "settings PEFT refuses together", needs=("config",),
      breaks=fields(layers_pattern="layers", target_modules=["q_proj"]))  # fmt: skip
def refused_together(subject: Subject) -> Iterator[Problem]:
    """PEFT's configs check themselves when they are made, which loading does: such an adapter raises.

    Where an earlier PEFT, which did not record its version, may have written it in good faith, this is a warning.

    Fix: change one of the two, as the weights show.
    """
    unsound = {fault.top for fault in faults_of(subject)}
    for found in refused(subject.peft_type, subject.fields, unsound):
        since = found.refusal.since
        old = bool(since) and _undated(subject)
        note = f" (refused since PEFT {since.removesuffix('.0')})" if old else ""
        yield Problem(found.message + note, CONFIG_NAME, found.refusal.fields[0], fix=found.refusal.fix,
                      severity="warning" if old else None)  # fmt: skip


@rule("CFG104", "warning", "an OFT of before PEFT 0.14", needs=("config",), breaks=fields(peft_type="OFT", r=4))
def early_oft(subject: Subject) -> Iterator[Problem]:
    """PEFT 0.14 changed what OFT saves, and knows the old ones by the missing oft_block_size: it refuses to load them.

    Fix: load it with PEFT 0.13 (and merge it there), or train it again.
    """
    if subject.peft_type == "OFT" and "oft_block_size" not in subject.fields:
        yield Problem("there is no oft_block_size: PEFT 0.14 and later refuse this OFT", CONFIG_NAME)


@rule("CFG105", "error", "a setting that is missing", needs=("config",), breaks=fields(peft_type="PROMPT_TUNING"))
def missing(subject: Subject) -> Iterator[Problem]:
    """A few fields have no usable default: PEFT fails while it builds the prompt or the layers.

    Fix: set it to what the weights have the shape of (the rows of prompt_embeddings are the virtual tokens).
    """
    for name, types in NEEDED.items():
        if subject.peft_type in types and subject.fields.get(name) is None:
            how = "is null" if name in subject.fields else "is not there"
            yield Problem(f"{name} {how}, and {subject.peft_type} cannot do without", CONFIG_NAME, name)


def newer(subject: Subject) -> bool:
    """Whether a PEFT later than the schema's newest wrote the config."""
    version = subject.fields.get("peft_version")
    return isinstance(version, str) and release(version)[:2] > release(newest_peft())[:2]


def _undated(subject: Subject) -> bool:
    """Whether it may be of a PEFT before 0.18, which did not write its version."""
    return subject.fields.get("peft_version") is None
