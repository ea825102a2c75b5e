"""CFG310–CFG399: the modules a config names, against those that have tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from adaptool.adapters.base import EMBEDDINGS, HEADS
from adaptool.adapters.config import CONFIG_NAME
from adaptool.adapters.names import PREFIX, endings_of, layer_of, projection_of
from adaptool.rules.configs.expressions import sound
from adaptool.rules.configs.scales import ALPHA_PATTERNS, RANK_PATTERNS
from adaptool.rules.configs.targets import MOST_LAYERS, missed, names, own, targets_known
from adaptool.rules.draft import fields
from adaptool.rules.families.config_patterns import MARKS
from adaptool.rules.finding import Problem, Severity
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject
from adaptool.rules.weights.leftovers import leftovers
from adaptool.summary.settings import TASK_HEADS
from adaptool.summary.unaccounted import matchless, unsaved_wholes, untrained
from adaptool.tensors.jsons import shown

LISTS = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "target_parameters",
         "feedforward_modules")  # fmt: skip
"""Not modules_to_save, to which PEFT itself adds a task's head again."""

HIGHEST_LAYER = 10_000


def some(found: list[str]) -> str:
    """The first name, and how many more there are."""
    return shown(found[0]) + (f" and {len(found) - 1} more" if len(found) > 1 else "")


def listed(subject: Subject, field: str) -> list[Any]:
    """A field's entries where it is a list; one text is not."""
    value = subject.fields.get(field)
    return value if isinstance(value, list) else []


@rule("CFG310", "error", "tensors of modules the config does not name", needs=("adapter",),
      breaks=fields(target_modules=["q_proj", "k_proj"]))  # fmt: skip
def unnamed_tensors(subject: Subject) -> Iterator[Problem]:
    """PEFT builds its layers from the config and then fills them from the file: tensors without a layer are dropped.

    It says nothing, and part of what was trained has no effect.

    Fix: name the modules in target_modules (and layers_to_transform), as they are in the weights.
    """
    found = missed(subject)
    if found:
        first, total = found[0], len(own(subject))
        reason = "none of them is adapted" if len(found) == total else "PEFT drops their tensors"
        yield Problem(
            f"{shown(first.module)} has tensors, and {first.reason}: {len(found)} of {total} modules, {reason}",
            CONFIG_NAME, "target_modules", tuple(key for one in found for key in one.keys),
        )  # fmt: skip


@rule("CFG311", "info", "targets without a tensor", needs=("adapter",),
      breaks=fields(target_modules=["q_proj", "v_proj", "c_attn"]))  # fmt: skip
def untrained_targets(subject: Subject) -> Iterator[Problem]:
    """A list that serves several architectures names modules this one does not have, which is harmless.

    If the base has them, their tensors were lost, and they load untrained.

    Fix: nothing if the base has no such modules; else save the adapter again.
    """
    if subject.peft_type in ("LN_TUNING", "UNILORA", "FROD") or not subject.store:
        return
    copies = (tensor.key.module.rpartition(".")[0] for tensor in subject.saved if tensor.role == "copy")
    whole = {*subject.config.names("modules_to_save"), *(end for module in copies for end in endings_of(module))}
    for field in ("target_modules", "target_parameters"):
        lost = [
            name
            for name in untrained(subject.config, field, names(subject))
            if not MARKS & set(name) and name not in whole
        ]
        alone = len(lost) == len(listed(subject, field)) and not own(subject)
        if lost and not (alone and leftovers(subject)):  # what is there instead says why
            yield Problem(
                f"{field} names {some(lost)}, and no such module has a tensor", CONFIG_NAME, field,
                severity="error" if alone else None,
            )  # fmt: skip


@rule("CFG312", "warning", "a pattern that matches no module", needs=("adapter",),
      breaks=fields(rank_pattern={"k_proj": 4}))  # fmt: skip
def idle_patterns(subject: Subject) -> Iterator[Problem]:
    """Patterns match the end of a module's runtime name, after a dot; what matches nothing is ignored.

    The rank or alpha that was meant for some modules was not theirs in training. PEFT's own prefix (base_model.model.)
    is no part of the name.

    Fix: correct the pattern, or delete it: the adapter was trained without.
    """
    if subject.peft_type in ("ADALORA", "OSF") or not targets_known(subject):
        return
    for field in (*RANK_PATTERNS, *ALPHA_PATTERNS):
        patterns = subject.fields.get(field)
        if not isinstance(patterns, dict) or not patterns or not sound(subject, field):
            continue
        lost = list(matchless(subject.config.patterns(field), names(subject)))
        if lost:
            fix = "Take PEFT's own prefix off the pattern." if PREFIX.rstrip(".") in lost[0].replace("\\", "") else ""
            yield Problem(f"{field} has {some(lost)}, which matches no module with tensors", CONFIG_NAME,
                          f"{field}.{lost[0]}", fix=fix)  # fmt: skip


@rule("CFG313", "warning", "a pattern hidden behind an earlier one", needs=("adapter",),
      breaks=fields(rank_pattern={"q_proj": 8, "layers.0.self_attn.q_proj": 4}))  # fmt: skip
def hidden_patterns(subject: Subject) -> Iterator[Problem]:
    """The first key that matches a module wins: a more exact one after a general one is never reached.

    Fix: write the more exact patterns first.
    """
    if subject.peft_type in ("ADALORA", "OSF") or not targets_known(subject):
        return
    for field in (*RANK_PATTERNS, *ALPHA_PATTERNS):
        values = subject.fields.get(field)
        if not isinstance(values, dict) or len(values) < 2 or not sound(subject, field):
            continue
        patterns, behind = subject.config.patterns(field), dict[str, str]()
        reached: set[str] = set()
        for module in names(subject):
            first, *others = [*patterns.all(module)] or [""]
            reached.add(first)
            behind |= {key: first for key in others if values[key] != values[first]}
        hidden = [key for key in values if key in behind and key not in reached]
        if hidden:
            yield Problem(
                f"{field} has {some(hidden)} behind {shown(behind[hidden[0]])}, which matches the same modules first",
                CONFIG_NAME, f"{field}.{hidden[0]}",
            )  # fmt: skip


@rule("CFG314", "info", "layers without a tensor", needs=("adapter",), breaks=fields(layers_to_transform=[0, 1, 7]))
def idle_layers(subject: Subject) -> Iterator[Problem]:
    """layers_to_transform counts from 0 and takes no negative numbers; a layer the base does not have is passed over.

    Fix: name the layers that have tensors.
    """
    given = subject.fields.get("layers_to_transform")
    wanted = [n for n in (given if isinstance(given, list) else [given]) if type(n) is int]
    if not wanted or not targets_known(subject):
        return
    negative = [n for n in wanted if n < 0]
    if negative:
        yield Problem(f"layers_to_transform names layer {shown(negative[0])}, and layers count from 0", CONFIG_NAME,
                      "layers_to_transform", severity="warning")  # fmt: skip
    if len(wanted) > MOST_LAYERS:
        yield Problem(f"layers_to_transform names {len(wanted)} layers", CONFIG_NAME, "layers_to_transform",
                      severity="warning")  # fmt: skip
        return
    there = {layer_of(module) for module in own(subject)}
    idle = [n for n in wanted if n >= 0 and n not in there]
    if idle:
        yield Problem(
            f"layers_to_transform names layer {some([shown(n) for n in idle])}, without a tensor".replace('"', ""),
            CONFIG_NAME, "layers_to_transform", severity="warning" if max(idle) > HIGHEST_LAYER else None,
        )  # fmt: skip


@rule("CFG315", "info", "an entry twice in a list", needs=("config",),
      breaks=fields(target_modules=["q_proj", "v_proj", "q_proj"]))  # fmt: skip
def repeated_entries(subject: Subject) -> Iterator[Problem]:
    """PEFT makes sets of these lists and writes each entry once: this one was edited by hand.

    Fix: delete the second entry.
    """
    for field in LISTS:
        counts = Counter(entry for entry in listed(subject, field) if isinstance(entry, str | int))
        twice = [shown(entry).strip('"') for entry, count in counts.items() if count > 1]
        if twice:
            yield Problem(f"{field} lists {some(twice)} more than once", CONFIG_NAME, field)


@rule("CFG316", "info", "a module both adapted and kept out", needs=("config",),
      breaks=fields(exclude_modules=["v_proj", "lm_head"], target_modules=["q_proj", "v_proj"]))  # fmt: skip
def both_ways(subject: Subject) -> Iterator[Problem]:
    """exclude_modules and modules_to_save come before target_modules: what they name gets no adapter.

    Fix: nothing is needed; to be clear, keep the name in one of the two.
    """
    targets = {name for name in listed(subject, "target_modules") if isinstance(name, str)}
    for field, what in (("exclude_modules", "leaves it out"), ("modules_to_save", "has it trained whole")):
        both = [name for name in listed(subject, field) if isinstance(name, str) and name in targets]
        if both:
            yield Problem(f"target_modules names {some(both)}, and {field} {what}", CONFIG_NAME, field)


@rule("CFG317", "error", "a module to save without its tensors", needs=("adapter",),
      breaks=fields(modules_to_save=["lm_head"]))  # fmt: skip
def lost_modules(subject: Subject) -> Iterator[Problem]:
    """PEFT builds a trainable copy of every module named here, and where the file has none it stays as the base has it.

    A new head (score, classifier) then answers with random weights, and nothing says so.

    Fix: save the adapter again with the module; if it was never trained, take it out of modules_to_save.
    """
    if not isinstance(subject.fields.get("modules_to_save"), list) or not sound(subject, "modules_to_save"):
        return
    lost = [name for name in unsaved_wholes(subject.config, subject.saved) if name]
    groups = [set(EMBEDDINGS), set(HEADS), {name for heads in TASK_HEADS.values() for name in heads}]
    kept = set(subject.config.names("modules_to_save")) - set(lost)
    by_severity: dict[Severity, list[str]] = {}
    for name in lost:
        group = next((group for group in groups if projection_of(name) in group), None)
        twin = group is not None and any(projection_of(other) in group for other in kept)
        severity: Severity = "info" if twin else "error" if group is not None or not kept else "warning"
        by_severity.setdefault(severity, []).append(name)
    for severity, found in by_severity.items():
        yield Problem(f"modules_to_save names {some(found)}, and no tensor is of it", CONFIG_NAME, "modules_to_save",
                      severity=severity)  # fmt: skip


@rule("CFG318", "error", "a name that takes every module", needs=("config",), breaks=fields(modules_to_save=[""]))
def empty_name(subject: Subject) -> Iterator[Problem]:
    """modules_to_save takes every module whose name ends with an entry, and every name ends with nothing.

    In target_modules an empty name matches nothing.

    Fix: delete the empty entry.
    """
    for field in ("modules_to_save", "target_modules", "exclude_modules"):
        empty = [name for name in listed(subject, field) if isinstance(name, str) and not name.strip(" .")]
        if empty:
            takes = "every module of the model ends with it" if field == "modules_to_save" else "no module is called so"
            yield Problem(f"{field} has the entry {shown(empty[0])}: {takes}", CONFIG_NAME, field,
                          severity=None if field == "modules_to_save" and not empty[0] else "warning")  # fmt: skip


@rule("CFG319", "warning", "names as no module has them", needs=("config",),
      breaks=fields(target_modules=["q_proj", "v_proj", " k_proj"]))  # fmt: skip
def misspelt_names(subject: Subject) -> Iterator[Problem]:
    """Names are compared letter by letter: a space, a comma or PEFT's own prefix in one makes it match nothing.

    Fix: write each name alone, as the model calls its module.
    """
    for field in ("target_modules", "exclude_modules", "modules_to_save", "target_parameters"):
        odd = [name for name in listed(subject, field) if isinstance(name, str) and name.strip(" .") and
               (name != name.strip() or "," in name or "/" in name or name.startswith(PREFIX.rstrip(".")))]  # fmt: skip
        if odd:
            yield Problem(f"{field} lists {some(odd)}, which no module is called", CONFIG_NAME, field)
