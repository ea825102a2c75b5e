"""What the forms of a few types cannot say with parts and axes alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from adaptool.rules.forms.matching import Fault
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


def lokr_wholes(found: Examination) -> Iterator[Fault]:
    """A factor is saved whole where the rank is at least half its larger side, else as a product."""
    for reading in found.modules:
        sizes, parts = reading.sizes, reading.owner.parts
        expected = patterned("r", 8, "rank_pattern")(found.config, reading.owner.name, sizes)
        both = found.config.fields.get("decompose_both")
        for factor, sides, cut in (("lokr_w1", "ac", both), ("lokr_w2", "bd", True)):
            if reading.faults or expected is None or not all(side in sizes for side in sides):
                continue
            larger = max(sizes[side] for side in sides)
            least = (larger + 1) // 2
            saved_whole, should = factor in parts, not cut or any(map(expected.accepts, range(least, larger + 1)))
            too_high = not any(map(expected.accepts, range(larger + 1)))  # a rank beyond both sides is whole too
            if saved_whole and not should and not too_high:
                text = f"{factor} is whole, and the config says {expected.text}, which makes it a product"
                yield reading.fault("size", text, factor, group=f"whole {factor}", field="r")
            elif not saved_whole and (should or too_high):
                text = f"{factor} is a product, and the config says {expected.text}, which makes it whole"
                yield reading.fault("size", text, f"{factor}_a", f"{factor}_b", group=f"product {factor}", field="r")


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
    if vectors and vectors > groups:
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
