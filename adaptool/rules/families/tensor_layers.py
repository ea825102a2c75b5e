"""TEN030–TEN049: LoRA's modules against each other: their types, their layers, what the config promises of them all."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from adaptool.adapters.config import AdapterConfig
from adaptool.rules.draft import LAYERS, PREFIX, RANK, WIDTH, Draft, Q, fields, numbers, tensors
from adaptool.rules.families.tensor_factors import Pair, pairs
from adaptool.rules.finding import Problem, Severity
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject
from adaptool.rules.weights.leftovers import first_of, leftovers
from adaptool.summary.contents import place_of
from adaptool.summary.targets import Target, targets
from adaptool.tensors.dtypes import DType

ODD: Mapping[str, Severity] = {"F64": "info", "F8_E4M3": "warning", "F8_E5M2": "warning"}
"""Types no adapter is trained in, and yet numbers that every library can read as weights."""

LEAST_LAYERS = 4
"""Fewer tell nothing about the layers in between."""
MOST_HOLES = 2
"""More layers without a projection are a model that has it in some layers only (attention among Mamba layers)."""


def _by_place(subject: Subject) -> Mapping[tuple[str, str], list[Pair]]:
    """The pairs of each projection, layer by layer."""

    def work() -> Mapping[tuple[str, str], list[Pair]]:
        grouped: dict[tuple[str, str], list[Pair]] = {}
        for pair in pairs(subject):
            place = place_of(pair.module)
            grouped.setdefault((place.stack, place.name), []).append(pair)
        return grouped

    return subject.once("pairs by place", work)


def _half(draft: Draft) -> None:
    for key in [key for key in draft.tensors if "lora_A" in key]:
        draft.tensors[key] = draft.tensors[key].astype("float16")


@rule("TEN030", "warning", "factors of several types", needs=("adapter",), breaks=_half)
def mixed_types(subject: Subject) -> Iterator[Problem]:
    """One training saves all its factors in one type; several are two files joined, or a conversion cut off halfway.

    Whole modules and magnitudes may have types of their own, and so may a projection that a model keeps in float32.

    Fix: convert all factors to one type; bfloat16 and float16 lose different things, so convert from the original.
    """
    grouped = _by_place(subject)
    infos = subject.store.infos
    halves = [pair for pair in pairs(subject) if infos[pair.a].dtype != infos[pair.b].dtype]
    if halves:
        a, b = infos[halves[0].a].dtype, infos[halves[0].b].dtype
        yield Problem(
            f"lora_A is {a} and lora_B is {b} in {first_of([pair.module for pair in halves])}", subject.weights_name,
            tensors=tuple(key for pair in halves for key in (pair.a, pair.b)),
        )  # fmt: skip
        return
    uneven = {place: sorted({infos[pair.a].dtype.name for pair in found}) for place, found in grouped.items()}
    several = {place: names for place, names in uneven.items() if len(names) > 1}
    if several:
        (_, name), names = next(iter(several.items()))
        more = f" and {len(several) - 1} more projections" if len(several) > 1 else ""
        yield Problem(
            f"{name}{more}: {' in some layers, '.join(names)} in others", subject.weights_name,
            tensors=tuple(key for place in several for pair in grouped[place] for key in (pair.a, pair.b)),
        )  # fmt: skip


@rule("TEN031", "error", "a type no adapter is trained in", needs=("adapter",),
      breaks=tensors(lora_B=lambda B: (100 * B).astype("int64")))  # fmt: skip
def odd_types(subject: Subject) -> Iterator[Problem]:
    """Factors are bfloat16, float16 or float32. Whole numbers or truth values are no weights, yet PEFT loads them.

    8-bit floats have two or three digits too few for an update; float64 is only twice the size.

    Fix: save it again in bfloat16, float16 or float32.
    """
    if subject.peft_type != "LORA":
        return
    odd: dict[DType, list[str]] = {}
    for tensor in subject.saved:
        weight = tensor.key.part.startswith(("lora_A", "lora_B", "lora_embedding", "lora_magnitude", "lora_diag"))
        whole = tensor.role == "copy" and tensor.key.module.endswith(".weight")
        if (weight or whole or "trainable_tokens" in tensor.key.part) and tensor.info.dtype.name not in (
            "F32", "F16", "BF16",
        ):  # fmt: skip
            odd.setdefault(tensor.info.dtype, []).append(tensor.key.text)
    for kind, keys in odd.items():
        severity = ODD.get(kind.name, "warning" if kind.floating and kind.bits == 8 else None)
        yield Problem(
            f"{len(keys)} of {len(subject.store)} tensors are {kind}: {first_of(keys)}", subject.weights_name,
            tensors=tuple(keys), severity=severity,
        )  # fmt: skip


SHARED_FACTORS = {"LILY", "SHADOW"}
"""PEFT types whose parts are not of one layer each: several layers share them, or they are layers of their own."""


def _holed(draft: Draft) -> None:
    for layer in (*range(LAYERS, 4), *range(5, 8)):
        key = Q.replace("layers.0", f"layers.{layer}")
        draft.tensors[f"{key}.lora_A.weight"] = numbers((RANK, WIDTH), layer)
        draft.tensors[f"{key}.lora_B.weight"] = numbers((WIDTH, RANK), layer, 0.01)


@rule("TEN032", "warning", "a projection missing in a layer", needs=("adapter",), breaks=_holed)
def holes(subject: Subject) -> Iterator[Problem]:
    """PEFT wraps a projection in every layer that has it, so one that is missing in between is lost from the save.

    Some runtimes then drop the projection in all layers. Models that have it in some layers only are told by how many
    lack it; layers_to_transform, exclude_modules and targets named one by one explain it too.

    Fix: nothing, if the model lacks the projection there (a hybrid's layers, shared keys); else save it again.
    """
    if subject.peft_type in SHARED_FACTORS:
        return
    explained = chooses_layers(subject.config)
    found: list[tuple[str, tuple[int, ...]]] = []
    everywhere = targets(subject.saved, subject.low_rank, subject.config)
    for target in everywhere:
        inside = tuple(layer for layer in target.missing if target.layers[0] < layer < target.layers[-1])
        if inside:
            found.append((f"{target.stack}.*.{target.name}", inside))
            few = len(inside) <= MOST_HOLES and len(target.layers) >= max(LEAST_LAYERS, 2 * len(inside) + 2)
            explained = explained or not few or _is_hybrid(target, everywhere)
    if found:
        name, layers = found[0]
        listed = ", ".join(map(str, layers[:6])) + (" …" if len(layers) > 6 else "")
        more = f"; so it is with {len(found) - 1} more projections" if len(found) > 1 else ""
        yield Problem(
            f"{name} is not in layer {listed}, and is in layers before and after{more}", subject.weights_name,
            severity="info" if explained else None,
        )  # fmt: skip


def _is_hybrid(target: Target, everywhere: Sequence[Target]) -> bool:
    """Whether the model has something else where a projection is not: Mamba for attention, or an MLP alone (NAS)."""
    parent, missing = target.name.rpartition(".")[0], set(target.missing)
    others = [other for other in everywhere if other.stack == target.stack]
    siblings = [other for other in others if other.name.rpartition(".")[0] == parent]
    block = len(siblings) > 1 and all(missing <= set(other.missing) for other in siblings)
    return any(
        set(other.layers) <= missing or (block and missing <= set(other.layers)) for other in others if other.layers
    )


def chooses_layers(config: AdapterConfig) -> bool:
    """Whether the config itself picks modules one by one, so that a hole may be meant."""
    names = config.fields.get("target_modules")
    picked = isinstance(names, str) or (
        isinstance(names, list) and any(re.search(r"\d\.", str(name)) for name in names)
    )
    return bool(
        picked or config.fields.get("exclude_modules") or config.fields.get("layers_to_transform") is not None
        or config.fields.get("target_parameters")
    )  # fmt: skip


@rule("TEN033", "info", "one projection, several shapes", needs=("adapter",),
      breaks=lambda draft: draft.tensors.update({f"{Q}.lora_A.weight": numbers((RANK, WIDTH // 2), 1)}))  # fmt: skip
def uneven_shapes(subject: Subject) -> Iterator[Problem]:
    """Most models have layers of one width; an adapter put together from two models shows here.

    Layers numbered twice (stages.0.layers.1: convolutions, Swin) widen from stage to stage, and are not asked.

    Fix: nothing, if the model's layers differ (Gemma 3n, Nemotron); else find out where it is from.
    """
    uneven: dict[str, tuple[list[tuple[tuple[int, ...], tuple[int, ...]]], list[Pair]]] = {}
    for (stack, name), found in _by_place(subject).items():
        shapes = list(dict.fromkeys((pair.b_shape[:1], pair.a_shape[1:]) for pair in found if not pair.fault))
        if len(shapes) > 1 and stack and "*" not in name.replace("experts.*", ""):
            uneven[f"{stack}.*.{name}"] = shapes, found
    if uneven:
        name, (((out, inputs), (other_out, other_inputs), *_), _) = next(iter(uneven.items()))
        more = f"; {len(uneven) - 1} more projections differ too" if len(uneven) > 1 else ""
        yield Problem(
            f"{name} is {[*out, *inputs]} in some layers and {[*other_out, *other_inputs]} in others{more}",
            subject.weights_name, tensors=tuple(pair.a for _, found in uneven.values() for pair in found),
        )  # fmt: skip


@rule("TEN034", "info", "trained biases asked for, none saved", needs=("adapter",), breaks=fields(bias="all"))
def no_biases(subject: Subject) -> Iterator[Problem]:
    """With bias="all" or "lora_only" PEFT saves every bias it trained; none are saved where the model has none.

    Runtimes refuse an adapter for this field alone.

    Fix: set bias to "none" if the model has no biases; with --base that is checked.
    """
    if subject.fields.get("bias", "none") in ("all", "lora_only") and not any(
        tensor.role == "unfrozen" for tensor in subject.saved
    ):
        yield Problem(f"bias is {subject.fields['bias']!r} and no bias is saved", subject.weights_name, "bias")


def _only_a_head(draft: Draft) -> None:
    draft.tensors = {f"{PREFIX}score.weight": numbers((2, WIDTH), 0)}
    draft.config["modules_to_save"] = ["score"]


@rule("TEN035", "error", "no factors at all", needs=("adapter",), breaks=_only_a_head)
def no_factors(subject: Subject) -> Iterator[Problem]:
    """target_modules says that modules were adapted, and not one of them has its factors: only the rest was saved.

    PEFT loads such a file with fresh factors, whose product is zero: the base answers.

    Fix: save again from the PeftModel; under FSDP or DeepSpeed, from a full state dict.
    """
    parts = {part for found in subject.adapter.modules.values() for part in found}
    wrong = leftovers(subject).keys() - {"weight", "bias", "nothing", "switch"}
    if subject.peft_type == "LORA" and subject.fields.get("target_modules") and not wrong and not any(
        part.startswith(("lora_A", "lora_B", "lora_embedding", "token_adapter")) for part in parts
    ):  # fmt: skip
        yield Problem(f"none of {len(subject.store)} tensors is a factor of LoRA's", subject.weights_name)
