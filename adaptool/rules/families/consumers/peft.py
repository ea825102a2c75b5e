"""PFT001–PFT099: what PEFT itself does on loading and merging. Read from PEFT 0.21.2, and run with it in the tests."""

from __future__ import annotations

import re
from collections.abc import Iterator

from adaptool.adapters.base import EMBEDDINGS, HEADS
from adaptool.adapters.names import projection_of
from adaptool.adapters.tuners.full import tied_head
from adaptool.adapters.tuners.unmergeable import LATER, PROMPTS, ROUTED
from adaptool.rules.draft import RANK, fields, together
from adaptool.rules.families.consumers.facts import Wrapped, about, and_more, is_lora, wrapped
from adaptool.rules.families.consumers.mutations import adapting, on_head, renamed, tied
from adaptool.rules.finding import Problem
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject
from adaptool.summary.settings import unknown_fields

CONFIG = "adapter_config.json"

TYPES = frozenset({"LORA", *PROMPTS, *ROUTED, *LATER} - {"BONE"})
"""The PEFT types of 0.21.2, in capitals as it wants them."""

EXPERT = re.compile(r"(?:.*\.)?experts\.\d+\.(?:w1|w3|gate_proj|up_proj)")
"""Halves that transformers 5 lays into one fused gate_up_proj."""


@rule("PFT001", "error", "a type that PEFT 0.21 does not have", needs=("config",), consumer="peft",
      breaks=fields(peft_type="BONE"))  # fmt: skip
def unknown_type(subject: Subject) -> Iterator[Problem]:
    """PEFT looks peft_type up as it is written, and raises KeyError: BONE went with 0.19, and "lora" is not LORA.

    Read from PEFT 0.21.2: config.py, mapping.py.

    Fix: for BONE, load it with PEFT 0.18 and convert it (MISS took its place); else correct peft_type.
    """
    value = subject.fields.get("peft_type")
    if isinstance(value, str) and value not in TYPES:
        yield Problem(f"PEFT 0.21 has no type {value[:40]!r}, and raises KeyError", CONFIG, "peft_type")


@rule("PFT002", "info", "a type that cannot be merged", needs=("config",), consumer="peft",
      breaks=fields(peft_type="PROMPT_TUNING"))  # fmt: skip
def no_merge(subject: Subject) -> Iterator[Problem]:
    """Virtual tokens and routed updates are no change of the weights: merge_and_unload does not exist or raises.

    Read from PEFT 0.21.2: tuners.

    Fix: serve it as an adapter.
    """
    if subject.peft_type in PROMPTS | ROUTED:
        yield Problem(f"{subject.peft_type} can be loaded, and never merged", CONFIG, "peft_type")


@rule("PFT003", "warning", "fields that PEFT 0.21 drops", needs=("config",), consumer="peft", breaks=fields(mystery=1))
def dropped_fields(subject: Subject) -> Iterator[Problem]:
    """Fields that PEFT does not know are dropped with a warning; what they say is lost at the next save.

    Read from PEFT 0.21.2: config.py from_peft_type.

    Fix: use the PEFT that wrote the adapter, or remove the field.
    """
    names = tuple(unknown_fields(subject.config))
    if names:
        message = f"PEFT 0.21 has no field {names[0][:60]!r}{and_more(names, 'fields')}, and drops it"
        yield Problem(message, CONFIG, names[0])


@rule("PFT006", "error", "a rank that is not the declared one", needs=("adapter",), consumer="peft",
      breaks=fields(r=2 * RANK))  # fmt: skip
def other_rank(subject: Subject) -> Iterator[Problem]:
    """PEFT makes the modules by r and rank_pattern, and raises a size mismatch at the first that is another.

    Read from PEFT 0.21.2: utils/save_and_load.py set_peft_model_state_dict.

    Fix: correct r or rank_pattern to the ranks in the weights.
    """
    off = [one for one in wrapped(subject) if one.name == one.module and one.rows not in (0, one.rank)]
    if off:
        keys = tuple(key for one in off for key in one.keys)
        message = f"{off[0].name} has rank {off[0].rows}, and the config says {off[0].rank}{and_more(off)}"
        yield Problem(message, CONFIG, "r" if off[0].rank == subject.config.rank else "rank_pattern", keys)


@rule("PFT007", "error", "replicated layers, which a merge gets wrong", needs=("config",), consumer="peft",
      breaks=fields(layer_replication=[[0, 2], [1, 2]]))  # fmt: skip
def replicated(subject: Subject) -> Iterator[Problem]:
    """The copies share their weights, so PEFT's merge adds several updates to one: it is wrong and says nothing.

    Loading works, on the base as it was before the replication. Observed with PEFT 0.21.2.

    Fix: do not merge it with PEFT; build the deeper base first, and rename the adapter's modules for it.
    """
    if is_lora(subject) and subject.fields.get("layer_replication"):
        message = "layer_replication is set: merge_and_unload adds the updates of several layers to one"
        yield Problem(message, CONFIG, "layer_replication")


@rule("PFT008", "error", "a tied head, which a merge gets wrong", needs=("adapter", "base"), consumer="peft",
      breaks=together(on_head, tied))  # fmt: skip
def tied_weights(subject: Subject) -> Iterator[Problem]:
    """Where head and embedding are one tensor, PEFT merges a LoRA on either into both.

    With ensure_weight_tying it is added twice. Observed with PEFT 0.21.2.

    Fix: merge it with adaptool merge, which writes the head on its own.
    """
    found = [one for one in wrapped(subject) if projection_of(one.module) in (*EMBEDDINGS, *HEADS[:2])]
    if found and subject.model.tied and tied_head(subject.adapter, subject.model) is not None:
        message = f"the base ties its head to its embedding: merge_and_unload adds {found[0].name}'s LoRA to both"
        yield about(subject, found, message)


@rule("PFT009", "error", "rsLoRA on experts, converted at √2", needs=("adapter",), consumer="peft",
      breaks=together(adapting("gate_proj", "up_proj"), fields(use_rslora=True),
                      renamed("mlp.", "mlp.experts.0.")))  # fmt: skip
def rslora_experts(subject: Subject) -> Iterator[Problem]:
    """On transformers 5 the factors of gate and up become one pair of twice the rank and twice the alpha.

    Under α/√r that is √2 times the scale. Observed with PEFT 0.21.2: utils/transformers_weight_conversion.py.

    Fix: merge it with adaptool merge, which leaves each expert its scale, or load it under transformers 4.
    """
    if not (is_lora(subject) and subject.fields.get("use_rslora")):
        return
    found: list[Wrapped] = [one for one in wrapped(subject) if EXPERT.fullmatch(one.module)]
    if found:
        keys = tuple(key for one in found for key in one.keys)
        message = f"{found[0].name}{and_more(found)} acts at 1.41 of its scale under transformers 5"
        yield Problem(message, CONFIG, "use_rslora", keys)


@rule("PFT010", "info", "an adapter that PEFT does not merge", needs=("config",), consumer="peft",
      breaks=fields(alora_invocation_tokens=[1, 2]))  # fmt: skip
def alora(subject: Subject) -> Iterator[Problem]:
    """An aLoRA acts after its invocation tokens only, so no single weight equals it: merging raises.

    Read from PEFT 0.21.2: tuners/lora/variants.py.

    Fix: serve it as an adapter.
    """
    if is_lora(subject) and subject.fields.get("alora_invocation_tokens"):
        message = "alora_invocation_tokens is set: PEFT loads it, and refuses to merge it"
        yield Problem(message, CONFIG, "alora_invocation_tokens")


@rule("PFT011", "warning", "an initialisation that is not repeatable", needs=("config",), consumer="peft",
      breaks=fields(init_lora_weights="pissa_niter_4"))  # fmt: skip
def niter(subject: Subject) -> Iterator[Problem]:
    """PEFT repeats PiSSA's decomposition of the base on every load; the fast one is random, so the residual differs.

    Read from PEFT 0.21.2: tuners/lora/layer.py pissa_init.

    Fix: convert it where it was trained: save_pretrained(…, path_initial_model_for_weight_conversion=…).
    """
    init = subject.fields.get("init_lora_weights")
    if is_lora(subject) and isinstance(init, str) and init.startswith("pissa_niter_"):
        yield Problem(f"init_lora_weights is {init!r}: each load makes another base", CONFIG, "init_lora_weights")
