"""Which tensor of a merged checkpoint answers to which of the merge: any writer, prefix, layout of experts, tied head.

Names are never guessed by likeness: a counterpart is found under a name some library is known to write.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adaptool.adapters.base import HEADS
from adaptool.archs.experts import expert_parts
from adaptool.archs.prefixes import base_model_prefix
from adaptool.archs.renames import disk_names
from adaptool.merging.merged import Merged, output_prefix
from adaptool.parity.compare import Pair
from adaptool.tensors.store import Store

WRAPPERS = re.compile(
    r"(?<![^.])(?:base_model\.model|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|base_layer"
    r"|modules_to_save\.default)\."
)
"""What PEFT, torch.compile, FSDP and activation checkpointing put into names while they wrap a module."""

UNMERGED = re.compile(r"(?<![^.])(?:lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector)(?![^.])")
"""A tensor that only an adapter has: the checkpoint was saved with the adapter beside the weights."""

BUFFERS = re.compile(r".*(?:position_ids|inv_freq|masked_bias|attn\.bias|attention\.bias|attention\.masked_bias)")
"""Constants that old checkpoints hold and newer libraries compute; ``attn.bias`` only where it is a mask."""

AFFIX_TRIES = 4
"""Prefixes unknown here that one checkpoint may mix."""


@dataclass(frozen=True, slots=True)
class Pairing:
    """The counterparts, and what has none."""

    pairs: tuple[Pair, ...]
    missing: tuple[str, ...]
    """Tensors of the merge, under its names, that the checkpoint lacks."""
    unexpected: tuple[str, ...]
    """Tensors of the checkpoint that no merge of this base and these adapters makes."""
    misshapen: tuple[Pair, ...] = ()
    """Counterparts by name whose shapes differ."""
    shared_head: str | None = None
    """The merge's head, where it must differ from the embedding and the checkpoint stores the two as one tensor."""
    notes: tuple[str, ...] = ()


def pair_up(
    merged: Merged,
    actual: Store,
    *,
    names: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Pairing:
    """Find the counterparts: by ``names`` (name in the checkpoint → name in the merge) or, without, by search.

    ``config`` is the checkpoint's own config.json: it tells a missing head that its class does not have from a loss.
    """
    found = {old: new for new, old in names.items() if new in actual} if names is not None else _search(merged, actual)
    pairs = [Pair(old, new, merged[old].rows) for old, new in found.items()]
    missing = [name for name in merged if name not in found]
    unexpected = set(actual) - set(found.values())
    experts = list(_expert_pairs(merged, actual, missing, unexpected))
    fused = {pair.expected for pair in experts}
    missing = [name for name in missing if name not in fused]
    unexpected -= {pair.actual for pair in experts}
    heads = list(_head_pairs(merged, actual, found, missing, unexpected))
    missing_heads = {pair.expected for pair in heads} & set(missing)
    missing = [name for name in missing if name not in missing_heads]
    unexpected -= {pair.actual for pair in heads}
    notes = []
    if absent := _computed(missing, merged):
        notes.append(f"not stored, because newer libraries compute it: {_listed(absent)}")
        missing = [name for name in missing if name not in absent]
    if headless := _other_class(missing, merged, config):
        notes.append(f"not stored, because this model class has no place for it: {_listed(headless)}")
        missing = [name for name in missing if name not in headless]
    fitting = [pair for pair in pairs if merged[pair.expected].shape == actual[pair.actual].shape]
    return Pairing(
        (*fitting, *experts, *heads),
        tuple(missing),
        tuple(name for name in actual if name in unexpected and not is_constant(name, actual)),
        tuple(pair for pair in pairs if pair not in fitting),
        next((pair.expected for pair in heads if merged.plan.unties and pair.expected in missing_heads), None),
        tuple(notes),
    )


def _search(merged: Merged, actual: Store) -> dict[str, str]:
    """Merge name → checkpoint name."""
    plain = {WRAPPERS.sub("", name): name for name in actual if not UNMERGED.search(name)}
    found: dict[str, str] = {}
    free = set(plain)
    prefix, config = output_prefix(merged.plan), merged.plan.base.config
    for name in merged:
        candidates = (name, prefix + name, *disk_names(name, config)) if name not in free else (name,)
        match = next((candidate for candidate in candidates if candidate in free), None)
        if match is not None:
            found[name] = plain[match]
            free.discard(match)
    for _ in range(AFFIX_TRIES):
        more = _by_affix([name for name in merged if name not in found], free)
        found |= {name: plain[match] for name, match in more.items()}
        free -= set(more.values())
        if not more:
            break
    return found


def _by_affix(names: Sequence[str], free: set[str]) -> dict[str, str]:
    """Names that match with one more, or one less, prefix: the one under which the longest of them is found."""
    if not names or not free:
        return {}
    probe = max(names, key=lambda name: (name.count("."), len(name)))
    longer = next((name for name in sorted(free) if name.endswith(f".{probe}")), None)
    if longer is not None:
        prefix = longer.removesuffix(probe)
        return {name: prefix + name for name in names if prefix + name in free}
    shorter = next((name for name in sorted(free, key=len, reverse=True) if probe.endswith(f".{name}")), None)
    if shorter is None or "." not in shorter.removesuffix(".weight"):
        return {}
    prefix = probe.removesuffix(shorter)
    return {
        name: name.removeprefix(prefix) for name in names if name.startswith(prefix) and name[len(prefix) :] in free
    }


def _expert_pairs(merged: Merged, actual: Store, missing: Sequence[str], free: set[str]) -> Iterator[Pair]:
    """Experts fused into one 3-D tensor on one side and stored one by one on the other."""
    config = merged.plan.base.config
    absent = set(missing)
    for name in sorted(free):
        yield from (Pair(part, name, rows, 0, row) for part, row, rows in _parts(name, actual, merged, absent, config))
    for name in missing:
        yield from (Pair(name, part, rows, row, 0) for part, row, rows in _parts(name, merged, actual, free, config))


def _parts(
    fused: str, store: Store, other: Store, names: set[str], config: Mapping[str, Any] | None
) -> list[tuple[str, int, int]]:
    """What a fused tensor of ``store`` is in ``other``: (name, first row, rows), nothing unless all of it is there."""
    shape, known = store[fused].shape, expert_parts(fused, config)
    if known is None or len(shape) != 3:
        return []
    parts = []
    for expert in range(shape[0]):
        for part, cut in zip(known.names(expert), known.rows(shape[1]), strict=True):
            name = next((candidate for candidate in disk_names(part, config) if candidate in names), None)
            rows = cut.stop - cut.start
            if name is None or other[name].shape != (rows, shape[2]):
                return []
            parts.append((name, expert * shape[1] + cut.start, rows))
    return parts


def _head_pairs(
    merged: Merged, actual: Store, found: Mapping[str, str], missing: Sequence[str], free: set[str]
) -> Iterator[Pair]:
    """A head stored on one side only, which on the other is the embedding."""
    base = merged.plan.base
    embedding = base.embedding
    if embedding is None or embedding not in found or not (base.tied or merged.plan.unties):
        return
    for name in missing:
        if name in (merged.plan.untied_head, base.head) and merged[name].shape == merged[embedding].shape:
            yield Pair(name, found[embedding], merged[name].rows)
    for name in free:
        is_head = WRAPPERS.sub("", name).removesuffix(".weight").rpartition(".")[2] in HEADS
        if base.tied and is_head and actual[name].shape == merged[embedding].shape and not merged.plan.unties:
            yield Pair(embedding, name, merged[embedding].rows)


def _computed(missing: Sequence[str], merged: Merged) -> list[str]:
    return [name for name in missing if name not in merged.changed and is_constant(name, merged)]


def is_constant(name: str, store: Store) -> bool:
    """Whether a tensor is a buffer that follows from the config; a trained ``attn.bias`` is a vector, a mask is not."""
    return BUFFERS.fullmatch(name) is not None and (not name.endswith("n.bias") or len(store[name].shape) == 4)


def _other_class(missing: Sequence[str], merged: Merged, config: Mapping[str, Any] | None) -> list[str]:
    """Untouched tensors outside the body, where the checkpoint is of another model class than the base.

    A classifier made from a language model has no language-model head, and a bare body has no head at all.
    """
    base = merged.plan.base
    new_head = any(name != merged.plan.untied_head for name in merged.plan.added)
    classes = tuple(of.get("architectures") if of else None for of in (base.config, config))
    if not new_head and (None in classes or classes[0] == classes[1]):
        return []
    body = f"{base_model_prefix(base.model_type or '')}."
    if not any(name.startswith(body) for name in base.store):
        return []
    return [name for name in missing if name not in merged.changed and not name.startswith(body)]


def still_wrapped(actual: Store) -> bool:
    """Whether the checkpoint holds an adapter's own tensors, beside the weights they were to be merged into."""
    return any(UNMERGED.search(name) for name in actual)


def _listed(names: Sequence[str]) -> str:
    return f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}"
