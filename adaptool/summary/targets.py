"""Modules by what they have in common: the same projection through all layers, the same rank and scale."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap

from adaptool.adapters.config import AdapterConfig
from adaptool.summary.contents import LowRankModule, Role, Saved, place_of, runtime_name
from adaptool.tensors.store import Store, totals_by_type

MOST_LAYERS, MOST_PLACES = 10_000, 1 << 20
"""Layers of a stack, and layers times projections, that are looked for: a name can have any number in it."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """Modules that share rank, alpha and scale; ``modules`` is 0 where no tensor was seen."""

    rank: int
    alpha: float | None
    scale: float | None
    modules: int


@dataclass(frozen=True, slots=True)
class Target:
    """One projection through the layers of a stack: ``self_attn.q_proj`` in ``model.layers``."""

    stack: str
    name: str
    modules: int
    layers: tuple[int, ...]
    missing: tuple[int, ...]
    """Layers of the stack it is not in: of the base's where there is one, else between the first and the last seen."""
    ranks: tuple[int, ...]
    alphas: tuple[float, ...]
    scales: tuple[float, ...]
    parameters: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class FullTensors:
    """Tensors that are no part of an adapter and play the same role in each layer."""

    name: str
    role: Role
    tensors: int
    layers: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    parameters: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class DTypeShare:
    """How much is stored in one element type."""

    dtype: str
    tensors: int
    nbytes: int


def dtype_shares(store: Store) -> tuple[DTypeShare, ...]:
    """What is stored in which type, the most first."""
    return tuple(starmap(DTypeShare, totals_by_type(store.infos.values())))


def scalings(modules: Iterable[LowRankModule]) -> tuple[Scaling, ...]:
    """The different (rank, alpha, scale) of LoRA modules, the commonest first."""
    counts: dict[tuple[int, float, float], int] = {}
    for module in modules:
        key = (module.rank, module.alpha, module.scale)
        counts[key] = counts.get(key, 0) + 1
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Scaling(rank, alpha, scale, count) for (rank, alpha, scale), count in ordered)


def targets(
    saved: Sequence[Saved],
    modules: Iterable[LowRankModule],
    config: AdapterConfig,
    layers_of: Callable[[str], int | None] = lambda stack: None,
) -> tuple[Target, ...]:
    """The adapter's own tensors, projection by projection, in saved order of first sight.

    ``layers_of`` gives the number of layers a stack has in the base, or None.
    """
    known = {module.name: module for module in modules}
    groups: dict[tuple[str, str], dict[str, list[Saved]]] = {}
    for tensor in saved:
        if tensor.role in ("trained", "fixed", "frozen") and tensor.key.module:
            name = runtime_name(tensor.key.module, config)
            place = place_of(name)
            groups.setdefault((place.stack, place.name), {}).setdefault(name, []).append(tensor)
    spans = _spans(groups, layers_of)
    return tuple(
        _target(stack, name, found, known, spans.get(stack, range(0)))
        for (stack, name), found in sorted(groups.items())
    )


def _spans(
    groups: Mapping[tuple[str, str], Mapping[str, object]], layers_of: Callable[[str], int | None]
) -> dict[str, range]:
    """The layers each stack has, or is known to have, as many as are looked for."""
    seen: dict[str, set[int]] = {}
    limit = min(MOST_LAYERS, MOST_PLACES // max(1, len(groups)))
    for (stack, _), names in groups.items():
        seen.setdefault(stack, set()).update(layer for name in names if (layer := place_of(name).layer) is not None)
    spans = {}
    for stack, layers in seen.items():
        count = layers_of(stack) if layers else None
        if layers:
            spans[stack] = (range(count) if count else range(min(layers), max(layers) + 1))[:limit]
    return spans


def _target(
    stack: str,
    name: str,
    found: Mapping[str, Sequence[Saved]],
    known: Mapping[str, LowRankModule],
    span: range,
) -> Target:
    layers = {layer for module in found if (layer := place_of(module).layer) is not None}
    described = [known[module] for module in found if module in known]
    infos = [tensor.info for tensors in found.values() for tensor in tensors]
    return Target(
        stack, name, len(found), tuple(sorted(layers)),
        tuple(layer for layer in span if layer not in layers) if layers else (),
        tuple(sorted({module.rank for module in described})),
        tuple(sorted({module.alpha for module in described})),
        tuple(sorted({module.scale for module in described})),
        sum(info.size for info in infos), sum(info.nbytes for info in infos),
    )  # fmt: skip


def full_tensors(saved: Iterable[Saved]) -> tuple[FullTensors, ...]:
    """Whole modules, biases, weights carried along, what all modules share, what is left over; grouped as targets."""
    groups: dict[tuple[Role, str, str], list[Saved]] = {}
    for tensor in saved:
        if tensor.role in ("trained", "fixed", "frozen") and tensor.key.module:
            continue
        place = place_of(_parameter(tensor))
        groups.setdefault((tensor.role, place.stack, place.name), []).append(tensor)
    return tuple(_full(role, stack, name, tensors) for (role, stack, name), tensors in groups.items())


def _parameter(tensor: Saved) -> str:
    """A full tensor's own name; a wrapped layer's bias or weight by the layer's."""
    if not tensor.key.module:
        return tensor.key.part
    part = tensor.key.part.rpartition(".")[2]
    return f"{tensor.key.module}.{part}" if "base_layer" in tensor.key.part else tensor.key.module


def _full(role: Role, stack: str, name: str, tensors: Sequence[Saved]) -> FullTensors:
    infos = [tensor.info for tensor in tensors]
    layers = {layer for tensor in tensors if (layer := place_of(_parameter(tensor)).layer) is not None}
    return FullTensors(
        f"{stack}.*.{name}" if stack else name, role, len(infos), tuple(sorted(layers)),
        tuple(dict.fromkeys(info.shape for info in infos)), tuple(dict.fromkeys(info.dtype.name for info in infos)),
        sum(info.size for info in infos), sum(info.nbytes for info in infos),
    )  # fmt: skip
