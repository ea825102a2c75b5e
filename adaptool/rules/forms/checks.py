"""What the forms of a few types cannot say with parts and axes alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import isqrt
from typing import TYPE_CHECKING, Any

from adaptool.rules.forms.matching import Fault, Reading
from adaptool.rules.forms.sizes import patterned, whole

if TYPE_CHECKING:
    from adaptool.rules.forms.examination import Examination


def adalora_masks(found: Examination) -> Iterator[Fault]:
    """rank_pattern holds a mask of init_r ranks for every module; the rows saved are those it keeps."""
    masks = found.config.fields.get("rank_pattern")
    start = whole(found.config.fields.get("init_r", 12))
    table: dict[str, Any] = masks if isinstance(masks, dict) else {}
    by_module = {key.removesuffix(".default").removesuffix(".lora_E"): (key, mask) for key, mask in table.items()}
    for reading in found.modules:
        rank = reading.sizes.get("r")
        key, mask = by_module.pop(reading.owner.name, ("", None))
        if rank is None or (start is None and mask is None):
            continue
        if mask is None:
            if rank != start:
                text = f"rank is {rank} in the tensors, and the config says init_r = {start}"
                yield reading.fault("rows", text, *reading.owner.parts, field="init_r")
            continue
        if not isinstance(mask, list) or not all(isinstance(kept, bool) for kept in mask):
            yield reading.fault("rows", "its mask in rank_pattern is no list of true and false", field="rank_pattern")
        elif sum(mask) != rank:
            text = f"{rank} ranks are saved, and its mask in rank_pattern keeps {sum(mask)}"
            yield reading.fault("rows", text, *reading.owner.parts, group="ranks kept", field="rank_pattern")
        elif start is not None and len(mask) != start:
            text = f"its mask in rank_pattern is of {len(mask)} ranks, and init_r = {start}"
            yield reading.fault("rows", text, field="rank_pattern")
    for module, (key, _) in by_module.items():
        text = f"rank_pattern has a mask for it ({key}), and no tensor"
        yield Fault("rows", text, "no tensor for a mask", module, (), "rank_pattern")


def adamss_subspaces(found: Examination) -> Iterator[Fault]:
    """No more subspaces than num_subspaces, none of a higher rank than subspace_rank."""
    most = whole(found.config.fields.get("num_subspaces", 5))
    highest = whole(found.config.fields.get("subspace_rank", 1))
    for reading in found.modules:
        ranks = [size for name, size in reading.sizes.items() if name.startswith("rank")]
        fewest = min(most or 0, reading.sizes.get("out", 0))
        if reading.faults:
            continue
        if most is not None and len(ranks) != fewest:
            text = f"it has {len(ranks)} subspaces, and the config says num_subspaces = {most}"
            yield reading.fault("size", text, *reading.owner.parts, field="num_subspaces")
        elif highest is not None and ranks and max(ranks) > highest:
            text = f"a subspace has rank {max(ranks)}, and the config says subspace_rank = {highest}"
            yield reading.fault("size", text, *reading.owner.parts, field="subspace_rank")


LARGEST = 1 << 24
"""Beyond this no layer has features, and their factors are not searched."""


@lru_cache(maxsize=4096)
def factorization(size: int, factor: int) -> tuple[int, int]:
    """How LoKr splits a dimension: by ``factor`` where that divides it, else as evenly as goes with no more than it."""
    if factor > 0 and size % factor == 0:
        return factor, size // factor
    most = min(isqrt(size), size if factor == -1 else factor)
    first = next((divisor for divisor in range(most, 1, -1) if size % divisor == 0), 1)
    return first, size // first


def lokr_factors(found: Examination) -> Iterator[Fault]:
    """Both dimensions are split as decompose_factor says, and a factor whose rank suffices for it is saved whole."""
    factor = found.config.fields.get("decompose_factor", -1)
    for reading in found.modules:
        if reading.faults:
            continue
        for side, one, two in (("rows", "a", "b"), ("columns", "c", "d")):
            first, second = reading.sizes.get(one, 0), reading.sizes.get(two, 0)
            if type(factor) is not int or not 0 < first * second <= LARGEST:
                continue
            if (wanted := factorization(first * second, factor)) != (first, second):
                text = f"its factors split {first * second} {side} as {first} × {second}, where decompose_factor = "
                text += f"{factor} makes it {wanted[0]} × {wanted[1]}"
                yield reading.fault("shape", text, *reading.owner.parts, group=f"split of {side}")
        yield from _lokr_wholes(found, reading)


def _lokr_wholes(found: Examination, reading: Reading) -> Iterator[Fault]:
    """A factor is whole where the rank is at least half its larger side; the first one is, but for decompose_both."""
    sizes, fields = reading.sizes, found.config.fields
    rank = patterned("r", 8, "rank_pattern")(found.config, reading.owner.name, sizes)
    for name, sides, cut in (("lokr_w1", "ac", fields.get("decompose_both")), ("lokr_w2", "bd", True)):
        if rank is None or not all(side in sizes for side in sides):
            continue
        least = (max(sizes[side] for side in sides) + 1) // 2
        should = not cut or not any(map(rank.accepts, range(min(least, LARGEST))))
        if (name in reading.owner.parts) != should:
            have, want = ("a product", "whole") if should else ("whole", "a product")
            text = f"{name} is {have}, and the config says {rank.text}, which makes it {want}"
            keys = (name, f"{name}_a", f"{name}_b")
            yield reading.fault("size", text, *keys, group=f"{have} {name}", field="r")


def peanut_depth(found: Examination) -> Iterator[Fault]:
    """As many encoders as depth says, and as many decoders."""
    depth = whole(found.config.fields.get("depth", 0))
    for reading in found.modules:
        inner = sum(part.startswith("peanut_encoders.") for part in reading.owner.parts)
        if depth is not None and inner != depth and not reading.faults:
            text = f"it has {inner} encoders, and the config says depth = {depth}"
            yield reading.fault("size", text, *reading.owner.parts, field="depth")


def category_of(module: str) -> str:
    """The kind of module whose projection FRoD shares: its last two names, without the layers' numbers."""
    names = module.split(".")
    if len(names) == 1 or names[-2].isdigit():
        return names[-1]
    return "attention_output" if names[-3:] == ["attention", "output", "dense"] else "_".join(names[-2:])


def frod_categories(found: Examination) -> Iterator[Fault]:
    """A module's numbers are as many as the projection of its category has."""
    shared = found.shared
    if not shared.owner.parts:
        return
    for reading in found.modules:
        category = category_of(reading.owner.name)
        if f"frod_V.{category}" not in shared.owner.parts:
            text = f"frod_V.{category} is missing, its modules' projection"
            yield reading.fault("missing", text, *reading.owner.parts, group=text)
            continue
        for axis, other in (("in", f"size{category}"), ("n", f"count{category}")):
            have, want = reading.sizes.get(axis), shared.sizes.get(other)
            if have is not None and want is not None and have != want and not reading.faults:
                part = reading.origin[axis]
                text = f"{part} has {have} entries, and the shared projection {want}"
                yield reading.fault("shape", text, part, group=f"{part} against the projection")


def tinylora_groups(found: Examination) -> Iterator[Fault]:
    """One shared vector for every group of modules, as weight_tying says."""
    tying = found.config.fields.get("weight_tying", 0.0)
    vectors = len(found.shared.owner.parts)
    if isinstance(tying, bool) or not isinstance(tying, int | float) or not 0 <= tying <= 1 or not found.modules:
        return
    groups = max(1, round(len(found.modules) * (1 - tying)))
    if vectors and vectors != groups:
        text = f"{vectors} vectors tinylora_v are saved, for {groups} groups of modules"
        yield found.shared.fault("size", text, *found.shared.owner.parts, field="weight_tying")


def adaption_layers(found: Examination) -> Iterator[Fault]:
    """As many layers as adapter_layers says."""
    layers = whole(found.config.fields.get("adapter_layers"))
    if layers is not None and found.modules and layers != len(found.modules):
        text = f"{len(found.modules)} layers are saved, and the config says adapter_layers = {layers}"
        yield found.shared.fault("size", text, field="adapter_layers")


CLASSIFIER = "internal_xlora_classifier.layers."


def xlora_layers(found: Examination) -> Iterator[Fault]:
    """The classifier's layers follow one another, from the model's hidden size to a number for every adapter."""
    fields, shared = found.config.fields, found.shared
    numbers = sorted(
        int(name.removeprefix("out")) for name in shared.sizes if name.startswith("out") and name[3:7].isdigit()
    )
    depth = whole(fields.get("xlora_depth", 1))
    if shared.faults or not numbers:
        return
    if depth is not None and len(numbers) != depth:
        text = f"the classifier has {len(numbers)} of its xlora_depth = {depth} layers"
        yield shared.fault("missing", text, *shared.owner.parts, field="xlora_depth")
        return
    width, word = whole(fields.get("hidden_size")), "the model's hidden_size"
    for number in numbers:
        if width is not None and shared.sizes[f"in{number}"] != width:
            part = f"{CLASSIFIER}{number}.weight"
            text = f"{part} takes {shared.sizes[f'in{number}']} features, and {word} is {width}"
            yield shared.fault("shape", text, part)
        width, word = shared.sizes[f"out{number}"], f"the output of layer {number}"
    experts = fields.get("adapters")
    if isinstance(experts, dict) and experts and width is not None and width % len(experts):
        text = f"the classifier gives {width} numbers, for {len(experts)} adapters"
        yield shared.fault("size", text, f"{CLASSIFIER}{numbers[-1]}.weight", field="adapters")
