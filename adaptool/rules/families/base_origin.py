"""BAS030–BAS049: which base it is: the one that is named, quantised, changed by an initialisation, of more layers."""

from __future__ import annotations

import re
from collections.abc import Iterator

from adaptool.adapters.tuners import TUNERS, tuner_for
from adaptool.adapters.tuners.lora import MUTATING_INITS
from adaptool.merging.provenance import QUANTISED_NAME, base_name, hub_id
from adaptool.rules.draft import LAYERS, Draft, fields
from adaptool.rules.families.tensor_layers import chooses_layers
from adaptool.rules.finding import Problem, Severity
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject
from adaptool.rules.weights.laid import laid
from adaptool.rules.weights.leftovers import first_of
from adaptool.summary.coverage import layers_of
from adaptool.summary.targets import Target, targets

SIZE = re.compile(r"(?:^|[-_.])(\d+(?:[.x]\d+)*[bm])(?=$|[-_.])")
"""A size in a model's name: the 7b of "llama-2-7b-hf"."""

EXTRA_LAYERS = 3
"""As many layers past num_hidden_layers may be a checkpoint's own (DeepSeek's and GLM's multi-token prediction)."""


@rule("BAS030", "info", "another base than the adapter names", needs=("adapter", "base"),
      breaks=lambda draft: draft.base_config.update({"_name_or_path": "Qwen/Qwen2.5-0.5B"}))  # fmt: skip
def other_name(subject: Subject) -> Iterator[Problem]:
    """base_model_name_or_path is what runtimes fetch and compare. A copy under another name is fine, another model not.

    Names and shapes may fit all the same (a base and its instruction-tuned sibling), and then nothing fails.

    Fix: give --base the model that is named, or correct base_model_name_or_path.
    """
    named, given = hub_id(subject.config.base_model), base_name(subject.model)
    if named is None or QUANTISED_NAME.search(named):
        return
    recorded = (subject.model.config or {}).get("_name_or_path")
    certain = hub_id(given) is not None and _bare(named) != _bare(given)
    if not (certain or _unlike(named, given)):
        given = recorded if isinstance(recorded, str) else ""
    # a config may record the model that it was tuned from: of that only the size tells
    if certain or _unlike(named, given) or (_sizes(given) and _sizes(named) and not _sizes(named) & _sizes(given)):
        yield Problem(
            f"the adapter names {named} as its base, and this is {given}", subject.weights_name,
            "base_model_name_or_path", severity="warning" if certain else None,
        )  # fmt: skip


def _bare(name: str) -> str:
    return name.rpartition("/")[2].lower()


def _sizes(name: str) -> set[str]:
    return set(SIZE.findall(_bare(name)))


def _unlike(named: str, folder: str) -> bool:
    """Whether a folder is called after another model: it has a size, and another one, or another family's name."""
    if hub_id(folder) is not None or not _sizes(folder) or not _sizes(named):
        return False
    words = [re.sub(r"[^a-z].*", "", _bare(name)) for name in (named, folder)]
    strangers = words[0] not in _bare(folder) and words[1] not in _bare(named)
    return strangers or not _sizes(named) & _sizes(folder)


SEVERITIES: dict[str, Severity] = {"corda": "error", "lora_ga": "error"}
"""PEFT cannot load the one, and applies the other to weights it was not trained on; the rest it computes anew."""


REDONE = ("pissa", "olora")
"""Computed anew on loading, exactly: PEFT serves them well, and only a merge is refused."""


@rule("BAS031", "warning", "factors that belong on a changed base", needs=("adapter", "base"),
      breaks=fields(init_lora_weights="pissa_niter_4"))  # fmt: skip
def changed_base(subject: Subject) -> Iterator[Problem]:
    """PiSSA, OLoRA and their like take a part of the base's weights into the factors, and leave the base without it.

    On the original base the factors count that part twice. PEFT computes the initialisation anew on loading; nothing
    else does, and a merge is refused.

    Fix: convert it where it was trained: save_pretrained(…, path_initial_model_for_weight_conversion=…).
    """
    init = subject.fields.get("init_lora_weights")
    if subject.peft_type == "LORA" and isinstance(init, str):
        method = next((key for key in MUTATING_INITS if init.lower().startswith(key)), None)
        if method is not None:
            yield Problem(
                f"init_lora_weights is {init!r}: {MUTATING_INITS[method]} changed the base, and these factors are "
                "not converted to the original", subject.weights_name, "init_lora_weights",
                severity="info" if init.lower() in REDONE else SEVERITIES.get(method),
            )  # fmt: skip


@rule("BAS032", "info", "quantised base", needs=("adapter", "base"),
      breaks=fields(base_model_name_or_path="unsloth/SmolLM2-135M-Instruct-bnb-4bit"))  # fmt: skip
def quantised(subject: Subject) -> Iterator[Problem]:
    """An adapter trained on a quantised base corrects its rounding too: on the 16-bit original outputs differ a little.

    Fix: nothing for serving; adaptool merge --onto-nf4 merges onto what a 4-bit training saw.
    """
    found = laid(subject)
    named = subject.config.base_model or ""
    if found.quantised is not None:
        yield Problem(f"the base is quantised ({found.quantised}); only headers were compared", subject.weights_name)
    elif QUANTISED_NAME.search(named):
        yield Problem(
            f"the adapter was trained on {named}, a quantised model, and the base is not quantised",
            subject.weights_name, "base_model_name_or_path",
        )  # fmt: skip


def _deeper(draft: Draft) -> None:
    draft.base_config["num_hidden_layers"] = LAYERS + 2
    for name, array in list(draft.base_tensors.items()):
        if ".layers.0." in name:
            for layer in range(LAYERS, LAYERS + 2):
                draft.base_tensors[name.replace(".layers.0.", f".layers.{layer}.")] = array


@rule("BAS033", "warning", "layers of the base without the adapter", needs=("adapter", "base"), breaks=_deeper)
def uncovered(subject: Subject) -> Iterator[Problem]:
    """PEFT wraps a target in every layer that has it: the others are lost from the save, or the base is a deeper one.

    layers_to_transform, exclude_modules, patterns and targets named one by one may mean it.

    Fix: save it again whole, or give --base the model it was trained on.
    """
    found = laid(subject)
    if found.failing("no-module") or chooses_layers(subject.config) or subject.fields.get("layer_replication"):
        return
    lacking: dict[tuple[int, ...], list[Target]] = {}
    modules = subject.low_rank if subject.peft_type in TUNERS else ()
    for target in targets(subject.saved, modules, subject.config, lambda stack: _layers(subject, stack)):
        missing = tuple(
            layer for layer in target.missing
            if "*" not in target.name and found.base.find(f"{target.stack}.{layer}.{target.name}.weight") is not None
        )  # fmt: skip
        if missing:
            lacking.setdefault(missing, []).append(target)
    for missing, without in lacking.items():
        names = first_of([f"{target.stack}.*.{target.name}" for target in without])
        seen, total = without[0].layers, len(without[0].layers) + len(missing)
        if missing == tuple(range(seen[-1] + 1, seen[-1] + 1 + len(missing))):
            how = f"only the first {len(seen)} of the base's {total} layers"
        else:
            listed = ", ".join(map(str, missing[:6])) + (" …" if len(missing) > 6 else "")
            how = f"not layer {listed} of the base's {total}"
        yield Problem(f"{names}: the adapter has {how}", subject.weights_name)


def _layers(subject: Subject, stack: str) -> int | None:
    """How many layers a stack has at run time, which may be fewer than are stored."""
    base = laid(subject).base
    stored, stated = layers_of(base, stack), base.text_config.get("num_hidden_layers")
    if stored is not None and isinstance(stated, int) and 0 < stored - stated <= EXTRA_LAYERS:
        return stated
    return stored


@rule("BAS034", "info", "no merge would be faithful", needs=("adapter", "base"),
      breaks=fields(layer_replication=[[0, LAYERS]]))  # fmt: skip
def unmergeable(subject: Subject) -> Iterator[Problem]:
    """Some LoRAs cannot be written into the base's weights without changing what they do; they are served as they are.

    Fix: serve it as an adapter.
    """
    if subject.peft_type in TUNERS and (refusal := tuner_for(subject.config).refusal(subject.config)):
        init = subject.fields.get("init_lora_weights")
        if not (isinstance(init, str) and init.lower().startswith(tuple(MUTATING_INITS))):
            yield Problem(f"it cannot be merged: {refusal.reason}", subject.weights_name, fix=refusal.way_out)
