"""CFG200–CFG249: ranks, alphas and scales that break an adapter, or make it another than was trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from adaptool.adapters.config import CONFIG_NAME
from adaptool.adapters.names import projection_of
from adaptool.adapters.schema import fields_of
from adaptool.rules.configs.scales import (
    ALPHAS,
    Number,
    alphas,
    config_scale,
    finite,
    module_scales,
    modules,
    number,
    ranks,
)
from adaptool.rules.draft import fields
from adaptool.rules.finding import Problem
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject
from adaptool.summary.contents import LowRankModule
from adaptool.tensors.jsons import shown

LARGEST_RANK = 100_000
"""LyCORIS writes a full matrix as this very rank; no layer is wider."""

ABSURD_SCALE, ODD_SCALE, IDLE_SCALE = 1000.0, 256.0, 1e-5
"""Of α/r. The strongest in earnest use are α = 256 at r = 1; a 16-bit weight does not see a hundred-thousandth."""

ABSURD_FACTOR = 1e6
"""Of a scale that no rank divides: FourierFT's are hundreds."""

HEADS = ("score", "classifier", "qa_outputs", "gate", "router")
SMALLEST = 8
"""Layers with as many outputs as a task has classes, or a mixture experts: a rank above that cannot be helped."""

JUMP = 100.0
"""Between the scales of two modules; ranks from 1 to 64 under one α explain less."""


def listed(names: Sequence[str]) -> str:
    """``rank_pattern.q_proj and 3 more``."""
    return shown(names[0]).strip('"') + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _grouped(found: list[Number], message: str) -> Iterator[Problem]:
    """One problem for a field of its own, one for all entries of patterns."""
    for group in ([n for n in found if not n.of_pattern], [n for n in found if n.of_pattern]):
        if group:
            first = group[0]
            named = listed([n.field for n in group])
            yield Problem(f"{named} is {shown(first.value)}: {message}", CONFIG_NAME, first.field)


@rule("CFG201", "error", "a rank of zero or less", needs=("config",), breaks=fields(r=0))
def no_rank(subject: Subject) -> Iterator[Problem]:
    """PEFT raises on it ("r should be a positive integer value"); an entry of a pattern counts as much as r itself.

    Fix: set the rank the weights have: the rows of lora_A.
    """
    own = {"r"} if subject.peft_type == "LORA" else set()
    found = [n for n in ranks(subject) if n.value <= 0 and (n.of_pattern or n.field in own)]
    yield from _grouped(found, "a rank is at least 1")


@rule("CFG202", "error", "an absurd rank", needs=("config",), breaks=fields(r=10**9))
def absurd_rank(subject: Subject) -> Iterator[Problem]:
    """Whoever loads the adapter allocates that many rows for every module, before any weight is read.

    Fix: set the rank the weights have.
    """
    yield from _grouped(_absurd_ranks(subject), "no layer is that wide")


def _absurd_ranks(subject: Subject) -> list[Number]:
    """They make scales absurd as well, which needs no second finding."""
    return [n for n in ranks(subject) if n.value > LARGEST_RANK]


@rule("CFG203", "error", "an alpha that is no finite number", needs=("config",),
      breaks=fields(lora_alpha=float("inf")))  # fmt: skip
def infinite_alpha(subject: Subject) -> Iterator[Problem]:
    """Every weight the scale reaches becomes NaN or infinite, in the model and in a merge.

    Fix: set the lora_alpha it was trained with; its training script or its card may tell.
    """
    yield from _grouped([n for n in alphas(subject) if not finite(n.value)], "the update is no number in float32")


@rule("CFG204", "error", "an alpha of zero", needs=("config",), breaks=fields(lora_alpha=0))
def zero_alpha(subject: Subject) -> Iterator[Problem]:
    """The adapter does nothing, and nothing says so; llama.cpp reads a zero alpha as a scale of 1 instead.

    Fix: set the alpha it was trained with; an adapter that is to do nothing is better not loaded.
    """
    for found in (n for n in alphas(subject) if n.value == 0):
        if subject.peft_type == "DEFT":
            continue  # its zero means: not scaled
        if subject.peft_type == "ADALORA":
            message = f"{found.field} is 0: PEFT's AdaLoRA takes the rank in its place"
        elif found.of_pattern:
            message = f"{shown(found.field)} is 0: the modules it matches do nothing"
        else:
            message = f"{found.field} is 0: the adapter does nothing"
        yield Problem(message, CONFIG_NAME, found.field, severity="warning" if found.of_pattern else None)


@rule("CFG205", "warning", "a negative alpha", needs=("config",), breaks=fields(lora_alpha=-16))
def negative_alpha(subject: Subject) -> Iterator[Problem]:
    """The adapter's update is subtracted: the model is moved away from what was trained.

    Fix: take the sign out, unless unlearning is what it is for.
    """
    found = [n for n in alphas(subject) if n.value < 0 and finite(n.value)]
    yield from _grouped(found, "the update is subtracted, and undoes what was trained")


@rule("CFG206", "error", "an absurd scale", needs=("config",), breaks=fields(lora_alpha=1e9))
def absurd_scale(subject: Subject) -> Iterator[Problem]:
    """Updates are multiplied by α/r (α/√r with rsLoRA), which practice keeps between a quarter and a few dozens.

    Thousands drown the model, whatever was trained; below a hundred-thousandth no 16-bit weight changes.

    Fix: set the alpha and the rank of the training.
    """
    if _absurd_ranks(subject):
        return
    muted = any(n.value == 0 for n in alphas(subject))  # CFG204 says so
    scales = module_scales(subject)
    strange = {name: scale for name, scale in scales.items() if _strange(scale) and (scale or not muted)}
    overall = config_scale(subject)
    _, divisor = ALPHAS.get(subject.peft_type, ("", ""))
    unit = 1.0 if divisor else ABSURD_FACTOR / ABSURD_SCALE
    if not scales and overall is not None and _strange(overall, unit) and (overall or not muted):
        strange = {"": overall}
    if not strange:
        return
    module, scale = max(strange.items(), key=lambda item: abs(item[1]))
    where = (
        f" in {shown(module)}{f' and {len(strange) - 1} more modules' if len(strange) > 1 else ''}" if module else ""
    )
    mild = all(ABSURD_SCALE >= abs(scale) > ODD_SCALE for scale in strange.values())
    yield Problem(
        f"updates are multiplied by {scale:.6g}{where}", CONFIG_NAME, ALPHAS[subject.peft_type][0],
        severity="warning" if mild else None,
    )  # fmt: skip


def _strange(scale: float, unit: float = 1.0) -> bool:
    return abs(scale) > ODD_SCALE * unit or abs(scale) < IDLE_SCALE


@rule("CFG207", "warning", "scales that differ a hundredfold", needs=("adapter",),
      breaks=fields(alpha_pattern={"v_proj": 4096}))  # fmt: skip
def uneven_scales(subject: Subject) -> Iterator[Problem]:
    """A pattern for the rank and none for the alpha, or one in the wrong units, drowns some modules or mutes them.

    Fix: give each module of rank_pattern an entry in alpha_pattern with the same α/r.
    """
    scales = {name: abs(scale) for name, scale in module_scales(subject).items() if scale}
    if not scales or _absurd_ranks(subject):
        return
    low, high = min(scales, key=scales.__getitem__), max(scales, key=scales.__getitem__)
    if scales[high] > JUMP * scales[low]:
        field = "alpha_pattern" if subject.fields.get("alpha_pattern") else "rank_pattern"
        yield Problem(
            f"{shown(high)} is scaled by {scales[high]:.6g} and {shown(low)} by {scales[low]:.6g}", CONFIG_NAME, field
        )


@rule("CFG208", "warning", "a rank larger than its layers", needs=("adapter",), breaks=fields(r=72))
def rank_beyond_layer(subject: Subject) -> Iterator[Problem]:
    """A product of rank above min(in, out) has no more directions than a full matrix: what is above is dead weight.

    On a head of few classes it cannot be helped, and is only told.

    Fix: lower r, or leave the small layers to rank_pattern; train the layer whole with modules_to_save instead.
    """
    found = () if _absurd_ranks(subject) else modules(subject)
    wide = [module for module in found if module.declared_rank > min(module.shape)]
    if wide:
        first = wide[0]
        yield Problem(
            f"{shown(first.name)} is {first.shape[0]}×{first.shape[1]} and its rank {first.declared_rank}"
            + (f", and {len(wide) - 1} more modules are as small" if len(wide) > 1 else ""),
            CONFIG_NAME, "r", severity=None if 2 * len(wide) > len(found) and not _heads(wide) else "info",
        )  # fmt: skip


def _heads(found: Sequence[LowRankModule]) -> bool:
    return all(projection_of(module.name) in HEADS or min(module.shape) < SMALLEST for module in found)


@rule("CFG209", "error", "a dropout that is no share", needs=("config",), breaks=fields(lora_dropout=1.5))
def impossible_dropout(subject: Subject) -> Iterator[Problem]:
    """torch raises on a dropout above 1 when the adapter is loaded; at 1 nothing was trained, below 0 it is ignored.

    Fix: write the share of the training, or 0: a finished adapter works the same with any.
    """
    for name in fields_of(subject.peft_type):
        value = number(subject.fields.get(name))
        if value is None or not name.endswith(("dropout", "dropout_p")) or 0 <= value < 1:
            continue
        if value != 1 and subject.peft_type != "LORA":
            continue  # CFG102 says so
        why = (
            "torch raises on it" if value > 1 else "nothing gets through in training" if value == 1 else "it is ignored"
        )
        yield Problem(
            f"{name} is {shown(value)}, and a share lies from 0 to below 1: {why}", CONFIG_NAME, name,
            severity=None if value > 1 else "warning",
        )  # fmt: skip
