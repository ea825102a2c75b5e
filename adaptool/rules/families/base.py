"""BAS001–BAS019: an adapter's modules and tensors against the base, as the merge's own planning sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from adaptool.adapters.base import HEADS
from adaptool.adapters.config import CONFIG_NAME
from adaptool.adapters.names import projection_of
from adaptool.adapters.tuners import TUNERS
from adaptool.adapters.tuners.unmergeable import PROMPTS
from adaptool.errors import AdaptoolError, UnsupportedError
from adaptool.rules.draft import (
    LAYERS,
    PREFIX,
    RANK,
    WIDTH,
    Draft,
    Q,
    extra,
    fields,
    numbers,
    renamed,
    together,
)
from adaptool.rules.finding import Problem
from adaptool.rules.rule import RULES, rule
from adaptool.rules.subject import Subject
from adaptool.rules.weights.laid import Laid, elsewhere, family_of, keys_of, laid
from adaptool.rules.weights.leftovers import first_of, leftovers
from adaptool.summary.contents import LowRankModule, place_of
from adaptool.summary.coverage import layers_of

TRAINED_ON = "give --base the model it was trained on"


def _beyond(modules: Sequence[str], found: Laid) -> int | None:
    """The base's number of layers, where all these modules lie past its last one."""
    counts = set()
    for module in modules:
        place = place_of(module)
        count = layers_of(found.base, place.stack) if place.layer is not None else None
        if count is None or place.layer is None or place.layer < count:
            return None
        counts.add(count)
    return min(counts) if counts else None


@rule("BAS001", "error", "adapter of another model", needs=("adapter", "base"),
      breaks=renamed(lambda key: key.replace("model.layers", "transformer.h").replace("self_attn.q_proj", "attn.c_attn")
                     .replace("self_attn.v_proj", "attn.c_proj")))  # fmt: skip
def another_model(subject: Subject) -> Iterator[Problem]:
    """Not one module of the adapter is in the base: loaded on it, nothing is applied, and the base itself answers.

    Fix: give --base the model it was trained on; base_model_name_or_path names it.
    """
    found = laid(subject)
    absent = found.failing("no-module")
    if not absent or not set(found.modules) <= set(absent) or _beyond(absent, found):
        return
    family, here = family_of(found.modules), subject.model.model_type
    near = elsewhere(absent[0], found.base)
    yield Problem(
        f"the base{f', a {here},' if here else ''} has none of the adapter's modules, such as {absent[0]}"
        + (f" (as in {family})" if family else "")
        + (f"; it has {near}, so the names may differ by a prefix only" if near else ""),
        subject.weights_name, tensors=keys_of(subject, absent), fix=TRAINED_ON,
    )  # fmt: skip


@rule("BAS002", "error", "modules that the base does not have", needs=("adapter", "base"),
      breaks=renamed(lambda key: key.replace("layers.1.", f"layers.{LAYERS + 3}.")))  # fmt: skip
def absent_modules(subject: Subject) -> Iterator[Problem]:
    """What the adapter does to modules the base has not is dropped by PEFT and by runtimes, most of them in silence.

    Layers past the base's last are the mark of a larger model of the same family.

    Fix: give --base the model it was trained on.
    """
    found = laid(subject)
    absent = found.failing("no-module")
    count = _beyond(absent, found)
    if not absent or (set(found.modules) <= set(absent) and not count):
        return
    deepest = max((place_of(module).layer or 0 for module in absent), default=0)
    why = f": it reaches layer {deepest}, and the base has {count} layers, up to {count - 1}" if count else ""
    yield Problem(
        f"the base has no {first_of(absent)}, of {len(found.modules)} modules{why}", subject.weights_name,
        tensors=keys_of(subject, absent), fix=TRAINED_ON,
    )  # fmt: skip


def _narrower(draft: Draft) -> None:
    for key in [key for key in draft.tensors if "lora_A" in key]:
        draft.tensors[key] = numbers((RANK, WIDTH // 2), 3)


@rule("BAS003", "error", "updates that do not fit the base's shapes", needs=("adapter", "base"), breaks=_narrower)
def misshapen_updates(subject: Subject) -> Iterator[Problem]:
    """The names fit and the sizes do not: a model of the same family, and of another size. Loading fails.

    Fix: give --base the model it was trained on, of that size.
    """
    found = laid(subject)
    wrong = found.failing("shape")
    if wrong:
        message = _unplaced(found.misfits[wrong[0]].message, subject)
        more = f" (and {len(wrong) - 1} more of {len(found.modules)} modules)" if len(wrong) > 1 else ""
        yield Problem(
            f"{message}{more}{_why(subject, found, wrong)}", subject.weights_name, tensors=keys_of(subject, wrong),
            fix=TRAINED_ON,
        )  # fmt: skip


def _why(subject: Subject, found: Laid, wrong: Sequence[str]) -> str:
    """What the sizes say: another hidden size, or another number of key and value heads."""
    modules = {module.name: module for module in subject.low_rank}
    inner = {projection_of(name) for name in wrong} <= {"k_proj", "v_proj", "key", "value", "kv_proj", "qkv_proj"}
    if inner and any(projection_of(name) in ("q_proj", "query", "o_proj") for name in set(found.modules) - set(wrong)):
        return ": only keys and values, so the number of key/value heads differs"
    widths = {m.shape[1] for name in wrong if (m := modules.get(name)) and projection_of(name) in ("q_proj", "query")}
    hidden = found.base.text_config.get("hidden_size")
    if len(widths) == 1 and widths != {hidden} and isinstance(hidden, int):
        return f": made for a hidden size of {widths.pop()}, and the base's is {hidden}"
    return ""


def _unplaced(message: str, subject: Subject) -> str:
    """A merge's message without the adapter's path, which a finding has anyway."""
    return message.removeprefix(f"{subject.adapter.path}: ")


def _crossed(draft: Draft) -> None:
    key = Q.replace("q_proj", "k_proj")
    draft.tensors[f"{key}.lora_A.weight"] = numbers((RANK, WIDTH // 2), 1)
    draft.tensors[f"{key}.lora_B.weight"] = numbers((WIDTH, RANK), 2, 0.01)


@rule("BAS004", "error", "updates that fit only transposed", needs=("adapter", "base"), breaks=_crossed)
def transposed(subject: Subject) -> Iterator[Problem]:
    """Only GPT-2's Conv1D keeps weights as (in, out). On a model without it such an update is of another module.

    PEFT fails on loading it.

    Fix: check the names of the modules: up_proj and down_proj, or two files, have been mixed up.
    """
    found = laid(subject)
    if found.base.has_conv1d is not False or subject.fields.get("target_parameters"):
        return
    here = (module for module in subject.low_rank if module.name not in found.misfits)
    wrong = tuple(module.name for module in here if _fits_transposed(module, found))
    if wrong:
        module = next(module for module in subject.low_rank if module.name == wrong[0])
        yield Problem(
            f"the update of {first_of(wrong)} is {list(module.shape)}, and the base's is {list(module.shape[::-1])}",
            subject.weights_name, tensors=keys_of(subject, wrong),
        )  # fmt: skip


def _fits_transposed(module: LowRankModule, found: Laid) -> bool:
    tensor = found.base.find(f"{module.name}.weight") if len(module.factors) == 1 else None
    shape = module.shape
    return tensor is not None and shape[0] != shape[1] and found.base.store[tensor].shape == shape[::-1]


@rule("BAS005", "error", "tensors that have no place in the base", needs=("adapter", "base"),
      breaks=together(fields(modules_to_save=["norm"]), extra(f"{PREFIX}model.norm.weight", WIDTH + 1)))  # fmt: skip
def unplaced_tensors(subject: Subject) -> Iterator[Problem]:
    """Whole modules and biases take the place of the base's, so the base must have them, in that shape.

    Fix: give --base the model it was trained on.
    """
    found = laid(subject)
    said = {key for keys in leftovers(subject).values() for key in keys}
    wrong = found.failing("full-shape", "no-parameter", "left-over")
    keys = tuple(key for key in keys_of(subject, wrong) if key not in said)
    if keys:
        first = next(name for name in wrong if keys_of(subject, (name,))[:1] and set(keys_of(subject, (name,))) - said)
        error = found.misfits[first]
        message = f"the base has no {first}" if error.defect == "left-over" else _unplaced(error.message, subject)
        more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
        yield Problem(f"{message}{more}", subject.weights_name, tensors=keys, fix=TRAINED_ON)


def _biased(draft: Draft) -> None:
    draft.config["lora_bias"] = True
    for key in [key for key in draft.tensors if "lora_B" in key]:
        draft.tensors[key.replace(".weight", ".bias")] = numbers(draft.tensors[key].shape[:1], 4)


@rule("BAS006", "error", "lora_bias on layers without a bias", needs=("adapter", "base"), breaks=_biased)
def bias_without_bias(subject: Subject) -> Iterator[Problem]:
    """lora_bias adds to the base layer's own bias; where there is none PEFT cannot merge it, nor runtimes apply it.

    Fix: train again with lora_bias=False, or use the adapter unmerged in PEFT only.
    """
    wrong = laid(subject).failing("no-bias")
    if wrong:
        yield Problem(
            f"lora_bias was trained on {first_of(wrong)}, and the base has no bias there", subject.weights_name,
            "lora_bias", keys_of(subject, wrong),
        )  # fmt: skip


@rule("BAS007", "error", "trained biases that were not saved", needs=("adapter", "base"),
      breaks=together(fields(bias="lora_only"), lambda draft: draft.base_tensors.update(
          {Q.removeprefix(PREFIX) + ".bias": numbers((WIDTH,), 6)})))  # fmt: skip
def lost_biases(subject: Subject) -> Iterator[Problem]:
    """bias="all" and "lora_only" train the biases of the wrapped layers; without them it is not what was trained.

    Fix: save it again with PEFT's save_pretrained, which keeps them.
    """
    if subject.peft_type != "LORA" or subject.fields.get("bias") not in ("all", "lora_only"):
        return
    found = laid(subject)
    saved = {t.key.module.replace(".base_layer", "") for t in subject.saved if t.role == "unfrozen"}
    wrapped = {m.name for m in subject.low_rank if len(m.factors) == 1}
    lost = [
        name for name in sorted(wrapped)
        if name not in saved and f"{name}.bias" not in saved and projection_of(name) not in HEADS
        and found.base.find(f"{name}.bias") is not None
    ]  # fmt: skip
    if lost:
        yield Problem(
            f"bias is {subject.fields['bias']!r}, and the biases of {first_of(lost)} are not in the file",
            subject.weights_name, "bias", keys_of(subject, tuple(lost)),
        )  # fmt: skip


def _prompt(draft: Draft) -> None:
    draft.config = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 8,
                    "token_dim": 2 * WIDTH, "num_layers": LAYERS, "num_transformer_submodules": 1}  # fmt: skip
    draft.tensors = {"prompt_embeddings": numbers((8, 2 * WIDTH), 0)}


@rule("BAS008", "error", "prompt of another model", needs=("adapter", "base"), breaks=_prompt)
def another_prompt(subject: Subject) -> Iterator[Problem]:
    """Virtual tokens are as wide as the base's own, and prefixes go into as many layers as it has; else nothing runs.

    Fix: give --base the model it was trained on.
    """
    if subject.peft_type not in PROMPTS:
        return
    for field, names, types in PROMPT_SIZES:
        size = subject.fields.get(field)
        there = next((found for name in names if type(found := subject.model.text_config.get(name)) is int), None)
        if subject.peft_type in types and type(size) is int and there not in (None, size):
            yield Problem(
                f"the adapter's {field} is {size}, and the base's {names[0]} is {there}", CONFIG_NAME, field,
                fix=TRAINED_ON,
            )  # fmt: skip


PROMPT_SIZES = (
    ("token_dim", ("hidden_size", "n_embd", "d_model"), PROMPTS - {"PREFIX_TUNING", "CARTRIDGE"}),
    ("num_layers", ("num_hidden_layers", "num_layers", "n_layer"), {"PREFIX_TUNING", "CARTRIDGE"}),
)
"""A field, what a base's config calls the same, and the types for which the two are one number."""


@rule("BAS019", "error", "a merge onto this base would fail", needs=("adapter", "base"),
      breaks=fields(alpha_pattern={"q_proj": "high"}))  # fmt: skip
def merge_fails(subject: Subject) -> Iterator[Problem]:
    """What inspect and merge find against a base is found here too, also where no rule of its own has a name for it.

    Fix: see: adaptool inspect ADAPTER --base BASE.
    """
    if subject.peft_type not in TUNERS:
        return
    problem = laid(subject).problem
    if problem is None or _explained(subject):
        return
    mild = isinstance(problem, UnsupportedError)  # PEFT cannot either, and serves it all the same
    yield Problem(
        f"a merge would fail: {_unplaced(problem.message, subject)}", subject.weights_name, fix=problem.hint or "",
        severity="info" if mild else None,
    )  # fmt: skip


def _explained(subject: Subject) -> bool:
    """Whether another rule on tensors or the base finds an error."""
    for other in RULES.values():
        if other.family in ("TEN", "BAS") and other.code != "BAS019" and subject.lacks(other.needs) is None:
            try:
                if any((problem.severity or other.severity) == "error" for problem in other.check(subject)):
                    return True
            except AdaptoolError:
                continue
    return False
