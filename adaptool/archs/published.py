"""Every tensor of a checkpoint in its published form, from config.json alone: run time fuses some and splits others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from adaptool.archs.experts import expert_parts
from adaptool.archs.renames import published_name
from adaptool.archs.shapes import Shape, parameter_shapes
from adaptool.errors import UnsupportedError

FUSED_ON_DISK: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "nomic_bert": {"attn.Wqkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")}
}
"""Model type → the module a checkpoint has, and those that transformers 5 makes of its rows, in their order."""


def checkpoint_shapes(config: Mapping[str, Any]) -> dict[str, Shape]:
    """Name and shape of each tensor of a checkpoint: one per expert, where run time fuses them.

    Raises UnsupportedError for a model this version has no table for.
    """
    runtime = parameter_shapes(config)
    if runtime is None:
        raise UnsupportedError(f"the parameters of a {config.get('model_type')} model are not known to this version")
    fused = FUSED_ON_DISK.get(str(config.get("model_type")), {})
    return dict(pair for name, shape in _joined(runtime, fused) for pair in _published(name, shape, config))


def _joined(runtime: Mapping[str, Shape], fused: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, Shape]]:
    """The parameters, those of fused modules as one where the first of them stands."""
    part_of = {part: (whole, parts) for whole, parts in fused.items() for part in parts}
    for name, shape in runtime.items():
        found = next((part for part in part_of if f".{part}." in name), None)
        if found is None:
            yield name, shape
            continue
        whole, parts = part_of[found]
        if found == parts[0]:
            rows = sum(runtime[name.replace(found, part)][0] for part in parts)
            yield name.replace(found, whole), (rows, *shape[1:])


def _published(name: str, shape: Shape, config: Mapping[str, Any]) -> Iterator[tuple[str, Shape]]:
    parts = expert_parts(name, config)
    if parts is None:
        yield published_name(name, config), shape
        return
    experts, total, columns = shape
    for expert in range(experts):
        for part, rows in zip(parts.names(expert), parts.rows(total), strict=True):
            yield part, (rows.stop - rows.start, columns)
