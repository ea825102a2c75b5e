"""What a change asks of an adapter's version, by the rules of docs/decisions/0010: the highest that applies.

major: an adapter of another base, type or vocabulary, or without something that it had. minor: one that can do more,
or is of another rank. patch: other numbers. none: the same adapter, however it was written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from adaptool.adapters.canonical import same
from adaptool.adapters.names import FULL, Key, parse, projection_of
from adaptool.comparing.added_tokens import difference
from adaptool.comparing.base_names import bases_changed
from adaptool.comparing.contents import Contents, TensorContent, rows_in
from adaptool.comparing.result import Level
from adaptool.summary.contents import ANY_PART

SHOWN = 4
"""Names that a reason lists."""

MERGED_IN = ("composed_of", "merged_into")
"""What makes another adapter a part of this one; being trained on from one does not."""

IN_THE_UPDATE = {
    "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "target_modules", "exclude_modules",
    "target_parameters", "layers_to_transform", "layers_pattern", "modules_to_save",
}  # fmt: skip
"""Fields that act through the updates and saved tensors alone: where these are the same, so is what they do."""

RANK_AXES = {"lora_A.weight": 0, "lora_B.weight": 1, "lora_embedding_A": 0, "lora_embedding_B": 1}
"""The axis of a factor that is its rank."""

Reason = tuple[Level, str]
ORDER: tuple[Level, ...] = ("none", "patch", "minor", "major")


@dataclass(frozen=True, slots=True)
class Layout:
    """Tensors by what they are: of each adapted module its parts, and what replaces or joins the base's own whole."""

    modules: Mapping[str, Mapping[str, TensorContent]]
    whole: Mapping[str, TensorContent]
    rows: Mapping[str, int]
    """Of embeddings and heads, how many tokens they have."""


def level_of(before: Contents, after: Contents, *, equal: bool | None) -> tuple[Level, tuple[str, ...]]:
    """The level that a change asks for, and everything that asks for it.

    equal: whether every ΔW and every other tensor is the same; None where the weights could not be compared.
    """
    reasons = list(_reasons(before, after, equal))
    level: Level = max((level for level, _ in reasons), key=ORDER.index, default=ORDER[0])
    return level, tuple(text for found, text in reasons if found == level)


def _reasons(before: Contents, after: Contents, equal: bool | None) -> Iterator[Reason]:
    yield from _base(before, after)
    if before.peft_type != after.peft_type:
        yield "major", f"another PEFT type: {before.peft_type or 'none'} → {after.peft_type or 'none'}"
        return
    layouts = layout(before), layout(after)
    yield from _vocabulary(before, after, *layouts)
    yield from _modules(*layouts)
    yield from _whole(*layouts)
    yield from _parents(before, after)
    yield from _values(before, after, equal)


def layout(contents: Contents) -> Layout:
    """Take the saved keys apart; every PEFT type's parts are known by their names."""
    modules: dict[str, dict[str, TensorContent]] = {}
    whole: dict[str, TensorContent] = {}
    rows: dict[str, int] = {}
    for text, tensor in contents.tensors.items():
        key = parse(text, ANY_PART)
        if key.part == FULL:
            whole[key.module.replace(".modules_to_save.", ".").replace(".base_layer.", ".")] = tensor
        elif key.part.endswith("base_layer.bias") or key.part.endswith("base_layer.weight"):
            whole[f"{key.module}.{key.part.rpartition('.')[2]}"] = tensor
        else:
            modules.setdefault(key.module, {})[key.part] = tensor
        if (found := rows_in(_plain(key), tensor.shape)) is not None:
            rows[found[0]] = found[1]
    return Layout(modules, whole, rows)


def _plain(key: Key) -> Key:
    return Key(key.text, key.module.replace(".modules_to_save.", ".").replace(".base_layer", ""), key.part)


def _base(before: Contents, after: Contents) -> Iterator[Reason]:
    digests = before.base_digest, after.base_digest
    if digests[0] is not None and digests[0] == digests[1]:
        return
    change, words = bases_changed((before.base, before.revision), (after.base, after.revision))
    if change == "other":
        yield "major", f"another base: {before.base} → {after.base}"
    elif None not in digests:
        known = after.base or before.base
        yield "major", f"another base: {known + ' has' if known else 'it has'} tensors of another digest"
    elif change == "revision":
        yield "major", f"another revision of the base: {before.revision} → {after.revision}"
    elif change == "pinned":
        yield "none", f"the base's revision is pinned: {after.revision or 'by its path'}"
    elif change == "unpinned":
        yield "none", f"the base's revision is no longer pinned to {before.revision or 'that of its path'}"
    elif change == "respelt":
        yield "none", f"the base under another name: {before.base} → {after.base} ({words})"


def _vocabulary(before: Contents, after: Contents, old: Layout, new: Layout) -> Iterator[Reason]:
    for module in old.rows:
        if new.rows.get(module, old.rows[module]) != old.rows[module]:
            yield "major", f"another vocabulary: {module} of {old.rows[module]} → {new.rows[module]} tokens"
    was, now = before.vocabulary, after.vocabulary
    if not same(was.get("trained") or {}, now.get("trained") or {}):
        yield "major", "other trained tokens (trainable_token_indices)"
    old_tokens, new_tokens = was.get("added"), now.get("added")
    if isinstance(old_tokens, dict) and isinstance(new_tokens, dict) and (told := difference(old_tokens, new_tokens)):
        yield "major", f"the tokenizer's added tokens changed: {told}"


def _modules(old: Layout, new: Layout) -> Iterator[Reason]:
    if gone := [module for module in old.modules if module not in new.modules]:
        yield "major", f"removed: {named(gone)}"
    if come := [module for module in new.modules if module not in old.modules]:
        yield "minor", f"new: {named(come)}"
    ranks: dict[str, list[str]] = {}
    for module, was in old.modules.items():
        if (now := new.modules.get(module)) is None:
            continue
        if lost := [part for part in was if part not in now and part.endswith(".bias")]:
            yield "major", f"removed: {module}.{lost[0]}"
        sizes = (_size(module, part, was[part], now[part]) for part in was if part in now)
        for change in dict.fromkeys(size for size in sizes if size):
            ranks.setdefault(change, []).append(module)
    for change, modules in ranks.items():
        yield ("major" if change == OTHER_SIZE else "minor"), f"{change}: {named(modules)}"


OTHER_SIZE = "for modules of another size"


def _size(module: str, part: str, was: TensorContent, now: TensorContent) -> str | None:
    """How the shape of a tensor changed: its rank, or the size of the module it is for."""
    if was.shape == now.shape:
        return None
    axis = RANK_AXES.get(part)
    if axis is None or len(was.shape) != len(now.shape) or len(was.shape) <= axis:
        return "another rank or size"
    rests = [shape[:axis] + shape[axis + 1 :] for shape in (was.shape, now.shape)]
    if was.shape[axis] != now.shape[axis]:
        if "experts" in module:  # of all experts together
            return "another rank"
        return f"rank {was.shape[axis]} → {now.shape[axis]}"
    return None if part.startswith("lora_embedding") or rests[0] == rests[1] else OTHER_SIZE


def _whole(old: Layout, new: Layout) -> Iterator[Reason]:
    if gone := [name for name in old.whole if name not in new.whole]:
        yield "major", f"removed, and was saved whole: {named(gone)}"
    if come := [name for name in new.whole if name not in old.whole]:
        yield "minor", f"new, and saved whole: {named(come)}"
    for name, tensor in old.whole.items():
        was, now = tensor.shape, new.whole.get(name, tensor).shape
        if was != now and name.removesuffix(".weight") not in old.rows:
            yield "major", f"{name} has another shape: {list(was)} → {list(now)}"


def _parents(before: Contents, after: Contents) -> Iterator[Reason]:
    come = sorted(name for relation, name in after.parents - before.parents if relation in MERGED_IN)
    if come:
        yield "minor", f"merged in: {_listed(come)}"


def _values(before: Contents, after: Contents, equal: bool | None) -> Iterator[Reason]:
    """Other numbers, in the weights or in what the config makes of them."""
    if not equal:
        common = before.tensors.keys() & after.tensors.keys()
        changed = [key for key in common if before.tensors[key].digest != after.tensors[key].digest]
        if changed:
            many = "1 tensor" if len(changed) == 1 else f"{len(changed)} tensors"
            yield "patch", f"{many} of {len(after.tensors)} changed"
        elif before.tensors.keys() != after.tensors.keys():
            yield "patch", "tensors under other names, or of another kind"
    if before.config_digest == after.config_digest:
        return
    if before.config is None or after.config is None:
        if not equal:
            yield "patch", "the config changed"
        return
    was, now = before.config, after.config
    fields = sorted(name for name in was.keys() | now.keys() if not same(was.get(name), now.get(name)))
    if told := [name for name in fields if not (equal and name in IN_THE_UPDATE)]:
        yield "patch", f"the config changed: {_listed(told)}"


def named(modules: Iterable[str]) -> str:
    """Modules by their projections: "k_proj in 12 modules"."""
    counts: dict[str, list[str]] = {}
    for module in modules:
        plain = module.removesuffix(".weight") or "its shared tensors"
        counts.setdefault(projection_of(plain), []).append(plain)
    return _listed([f"{short} in {len(names)} modules" if len(names) > 1 else names[0]
                    for short, names in counts.items()])  # fmt: skip


def _listed(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
