"""TEN200–TEN299: what each PEFT type but LoRA saves: its parts, their shapes, and what the config says of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from adaptool.adapters.config import CONFIG_NAME
from adaptool.adapters.tuners.unmergeable import PROMPTS
from adaptool.errors import UnsupportedError
from adaptool.rules.draft import Draft, Q, extra, fields, remade, together
from adaptool.rules.finding import Problem
from adaptool.rules.forms import FORMS, Examination, Fault, examine, type_of
from adaptool.rules.forms.matching import Kind
from adaptool.rules.rule import rule
from adaptool.rules.subject import Outcome, Subject, attempt
from adaptool.rules.weights.leftovers import misspelt
from adaptool.summary.settings import title

MOST_ALIKE = 3
"""Findings of one rule about one adapter."""

LOHA = {"hada_w1_a": (64, 4), "hada_w1_b": (4, 64), "hada_w2_a": (64, 4), "hada_w2_b": (4, 64)}
ADALORA = {"lora_A": (3, 64), "lora_B": (64, 3), "lora_E": (3, 1)}
SHIRA = {"shira_weight": (256,), "shira_indices": (2, 256)}
MASKS = {f"model.layers.{layer}.self_attn.q_proj.lora_E": [True, True, False, False] for layer in range(2)}
loha = remade("LOHA", LOHA, r=4, alpha=8)


def examined(subject: Subject) -> Examination | None:
    """The adapter laid on the form of its type, once; None for LoRA and for types nothing here knows."""
    form = FORMS.get(subject.peft_type)
    if form is None:
        return None
    done = _attempted(subject)
    if done.error is not None:
        raise done.error
    return done.value[0] if done.value else None


def _attempted(subject: Subject) -> Outcome[tuple[Examination, tuple[Fault, ...]]]:
    """Once, also where it fails: a pattern that runs away is not tried again by the next rule."""
    return subject.once("laid on its form", lambda: attempt(lambda: _faults(subject)))


def _faults(subject: Subject) -> tuple[Examination, tuple[Fault, ...]]:
    found = examine(subject.adapter, FORMS[subject.peft_type], misspelt(subject))
    return found, tuple(found.faults())


def problems(subject: Subject, *kinds: Kind, shared: bool | None = None) -> Iterator[Problem]:
    """The faults of some kinds, one problem for those that are the same in many modules."""
    found = examined(subject)
    if found is None or found.empty:
        return
    groups: dict[str, list[Fault]] = {}
    _, every = _attempted(subject).value or (found, ())
    for fault in every:
        if fault.kind in kinds and shared in (None, not fault.module):
            groups.setdefault(fault.group, []).append(fault)
    if len(groups) > MOST_ALIKE:  # damage of the whole file
        groups = {"": [fault for faults in groups.values() for fault in faults]}
    for faults in groups.values():
        first = faults[0]
        where = f"{first.module}: " if first.module else ""
        more = "more modules" if len({fault.module for fault in faults}) == len(faults) else "more places"
        others = f" (and in {len(faults) - 1} {more})" if len(faults) > 1 else ""
        keys = tuple(dict.fromkeys(key for fault in faults for key in fault.keys))
        file = CONFIG_NAME if first.field else subject.weights_name
        yield Problem(f"{where}{first.text}{others}", file, first.field, keys)


@rule(
    "TEN200", "error", "nothing of the PEFT type the config names", needs=("adapter",), breaks=fields(peft_type="LOHA")
)
def other_type(subject: Subject) -> Iterator[Problem]:
    """The config decides what PEFT builds; tensors of another type are passed over, and nothing is adapted.

    A type that nothing here knows is not analysed, which is said.

    Fix: set peft_type to what the tensors are, or put the right file beside the config.
    """
    if subject.peft_type not in {*FORMS, "LORA"}:
        raise UnsupportedError(f"{subject.peft_type} is no PEFT type this version knows: its tensors are not analysed")
    found = examined(subject)
    if found is None or not found.empty or misspelt(subject):
        return
    parts = {part: info.name for owner in found.strangers for part, info in owner.parts.items()}
    seen = type_of(parts) if parts else None
    named = f"they are {title(seen)}'s" if seen else f"such as {next(iter(subject.store))}"
    total = len(subject.store)
    yield Problem(f"the config says {title(subject.peft_type)}, and none of the {total} tensors is: {named}",
                  subject.weights_name, tensors=tuple(parts.values()))  # fmt: skip


@rule("TEN201", "error", "a module with a part missing", needs=("adapter",),
      breaks=together(loha, lambda draft: draft.tensors.pop(f"{Q}.hada_w2_b")))  # fmt: skip
def part_missing(subject: Subject) -> Iterator[Problem]:
    """PEFT loads what is there and leaves the rest as it was initialised: at random, or so that nothing happens.

    Fix: save the adapter again; the save was cut off or filtered.
    """
    yield from problems(subject, "missing", shared=False)


@rule("TEN202", "error", "a part this PEFT type does not have", needs=("adapter",),
      breaks=together(loha, extra(f"{Q}.hada_w3_a", 64, 4)))  # fmt: skip
def foreign_part(subject: Subject) -> Iterator[Problem]:
    """PEFT drops a part that its class for this type does not have, or not with this config; so it is lost.

    Fix: set the fields that the part belongs to, or take it out if another tool left it.
    """
    yield from problems(subject, "foreign")


@rule("TEN203", "error", "parts whose shapes contradict each other", needs=("adapter",),
      breaks=together(loha, extra(f"{Q}.hada_w2_b", 5, 64)))  # fmt: skip
def contradicting_shapes(subject: Subject) -> Iterator[Problem]:
    """The parts of a module make one update together, which exists only if their shapes fit each other.

    Fix: save the adapter again, with every shard gathered; or take the tensors from one checkpoint only.
    """
    yield from problems(subject, "shape")


@rule("TEN204", "error", "another size than the config declares", needs=("adapter",),
      breaks=together(loha, fields(r=8)))  # fmt: skip
def other_size(subject: Subject) -> Iterator[Problem]:
    """PEFT builds modules of the size the config says, and tensors of another do not fit into them.

    Where they do fit, the update is scaled by the wrong rank.

    Fix: set the field to what the tensors have; they were trained so.
    """
    if subject.peft_type not in PROMPTS:
        yield from problems(subject, "size")


@rule("TEN205", "error", "a shared tensor missing", needs=("adapter",),
      breaks=remade("VERA", {"vera_lambda_b": (64,), "vera_lambda_d": (4,)}, r=4, save_projection=True))  # fmt: skip
def shared_missing(subject: Subject) -> Iterator[Problem]:
    """What all modules use is saved once; without it their own numbers mean nothing.

    Fix: save the adapter again. Projections that were left out on purpose need save_projection: false in the config.
    """
    yield from problems(subject, "missing", shared=True)


@rule("TEN206", "error", "other virtual tokens than the config declares", needs=("adapter",),
      breaks=remade("PROMPT_TUNING", {}, {"prompt_embeddings": (5, 64)}, num_virtual_tokens=8, token_dim=64,
                    num_transformer_submodules=1, num_layers=2, num_attention_heads=4))  # fmt: skip
def other_prompt(subject: Subject) -> Iterator[Problem]:
    """PEFT makes room for as many virtual tokens, of such a width, as the config says, and fails on any other prompt.

    Fix: set num_virtual_tokens (and token_dim, num_layers) to what the prompt was trained with.
    """
    if subject.peft_type in PROMPTS:
        yield from problems(subject, "size")


@rule("TEN207", "error", "masks of AdaLoRA that do not fit", needs=("adapter",),
      breaks=remade("ADALORA", ADALORA, init_r=4, target_r=3, total_step=9, rank_pattern=MASKS))  # fmt: skip
def other_masks(subject: Subject) -> Iterator[Problem]:
    """AdaLoRA prunes ranks, saves the rows that are left, and the mask of them in rank_pattern: PEFT needs both.

    Fix: take rank_pattern from the same checkpoint as the tensors.
    """
    yield from problems(subject, "rows")


def _as_float(draft: Draft) -> None:
    key = next(key for key in draft.tensors if key.endswith("shira_indices"))
    draft.tensors[key] = draft.tensors[key].astype(np.float16)


@rule("TEN208", "error", "a part stored as what it cannot be", needs=("adapter",),
      breaks=together(remade("SHIRA", SHIRA, r=2), _as_float))  # fmt: skip
def other_dtype(subject: Subject) -> Iterator[Problem]:
    """Indices cast to 16-bit floats with all the rest point elsewhere; weights cast to integers are rounded away.

    Fix: save the adapter again, and cast only floating-point tensors.
    """
    yield from problems(subject, "type")


@rule("TEN209", "warning", "OFT as only PEFT up to 0.15 loads it", needs=("adapter",),
      breaks=remade("OFT", {"oft_r": (4, 16, 16), "oft_s": (64, 1)}, r=4, oft_block_size=0))  # fmt: skip
def older_oft(subject: Subject) -> Iterator[Problem]:
    """From 0.16 on PEFT builds another OFT (oft_R.weight) and passes over oft_r: then nothing is adapted.

    Fix: load it with PEFT 0.15, or train it again.
    """
    found = examined(subject)
    old = [reading.owner for reading in found.modules if "oft_r" in reading.owner.parts] if found else []
    if old and "oft_block_size" in subject.fields:  # without it PEFT refuses the config, which has a rule of its own
        keys = tuple(owner.parts["oft_r"].name for owner in old)
        yield Problem(f"{len(old)} modules have oft_r, which PEFT from 0.16 on passes over", subject.weights_name,
                      tensors=keys)  # fmt: skip
