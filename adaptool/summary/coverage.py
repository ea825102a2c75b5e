"""How an adapter lies on a base: which of its modules the base has, and whether a merge would go through.

The merge's own planning answers, so that ``inspect`` and ``merge`` never disagree; only headers are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from adaptool.adapters.adapter import Adapter
from adaptool.adapters.base import BaseModel
from adaptool.adapters.patches import Dora, LowRank, Patch
from adaptool.adapters.plan import Plan
from adaptool.adapters.tuners import TUNERS, tuner_for
from adaptool.adapters.tuners.unmergeable import PROMPTS
from adaptool.archs.shapes import parameter_shapes
from adaptool.errors import AdaptoolError, MismatchError
from adaptool.jobs import default_workers, run
from adaptool.merging.merged import Merged, refuse_lost_rows
from adaptool.merging.provenance import QUANTISED_NAME, base_name, origin_note
from adaptool.summary.contents import Place, misshapen, place_of, saved_tensors
from adaptool.summary.expected import shapes_store, trained_config
from adaptool.tensors.compute import NumpyCompute
from adaptool.tensors.store import Store
from adaptool.tensors.views import Selected, select

BLOCK_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Coverage:
    """An adapter against a base."""

    base: str
    path: Path
    modules: int
    """How many the adapter changes."""
    found: int
    """How many of them the base has, with a shape that fits."""
    absent: tuple[str, ...]
    """Modules the base has not, or in another shape."""
    problem: str | None
    """What a merge onto this base would fail with."""
    notes: tuple[str, ...]
    """What a merge would point out: another base than the named one, a head that comes untied, …"""


def cover(adapter: Adapter, base: BaseModel) -> Coverage:
    """Lay ``adapter`` on ``base``; a base that is only a config is taken by the table of its family's shapes."""
    modules = adapted_modules(adapter)
    named = adapter.config.base_model or ""
    notes = [note] if QUANTISED_NAME.search(named) and (note := origin_note(adapter, base)) else []
    plan, problem = plan_of(adapter, base)
    absent: tuple[str, ...] = ()
    if plan is None:
        absent = tuple(module for module in modules if not _fits(adapter, base, module))
    if adapter.config.peft_type not in TUNERS:
        problem = None
    return Coverage(
        base_name(base), base.path, len(modules), len(modules) - len(absent), absent, problem,
        (*notes, *(plan.notes if plan else ())),
    )  # fmt: skip


def adapted_modules(adapter: Adapter) -> tuple[str, ...]:
    """The modules that hold parts of the adapter's own, in saved order."""
    if adapter.config.peft_type == "LORA":
        return tuple(adapter.modules)
    if adapter.config.peft_type in PROMPTS:
        return ()
    owned = (tensor.key.module for tensor in saved_tensors(adapter) if tensor.role in ("trained", "frozen"))
    return tuple(dict.fromkeys(module for module in owned if module))


def plan_of(adapter: Adapter, base: BaseModel) -> tuple[Plan | None, str | None]:
    """The plan of merging one adapter, or what speaks against it."""
    plan, error = planned(adapter, base)
    return plan, error.message if error else None


def planned(adapter: Adapter, base: BaseModel) -> tuple[Plan | None, AdaptoolError | None]:
    """The plan of merging one adapter as far as it goes, and the error a merge would end with.

    (None, None) for a PEFT type without a merge; a plan and an error where tensors are left over at its end.
    """
    if adapter.config.peft_type not in TUNERS:
        return None, None
    plan = Plan(base)
    try:
        if broken := misshapen(adapter):
            raise MismatchError(f"{broken[0]} is no matrix, or does not fit its other half", defect="misshapen")
        used = tuner_for(adapter.config).plan(adapter, 1.0, plan)
    except AdaptoolError as error:
        return None, error
    left = [key for key in adapter.store if key not in used]
    try:
        if left:
            message = f"nothing accounts for {len(left)} tensors, such as {left[0]}"
            raise MismatchError(message, defect="left-over")
        refuse_lost_rows(plan)
    except AdaptoolError as error:
        return plan, error
    return plan, None


def misfits(
    adapter: Adapter, base: BaseModel, key_in_base: Callable[[str], str] = lambda key: key
) -> Mapping[str, AdaptoolError]:
    """Each module of a LoRA, and each full tensor by its parameter's name, that cannot be merged by itself, and why.

    ``key_in_base`` gives a saved key as an adapter of the plain base would have it (``layer_replication``).
    """
    units = {module: tuple(parts.values()) for module, parts in adapter.modules.items()}
    units |= {parameter: (key,) for parameter, key in adapter.full_tensors.items()}
    found: dict[str, AdaptoolError] = {}
    absent: dict[Place, AdaptoolError] = {}
    for name, keys in units.items():
        place = place_of(name)
        if place in absent:  # a base without one expert has none of those after it either; looking takes its time
            found[name] = absent[place]
            continue
        alone = Selected(adapter.store, {key_in_base(key): key for key in keys})
        _, error = planned(replace(adapter, store=alone), base)
        if error is not None and error.defect != "lost-rows":
            found[name] = error
            if error.defect == "no-module":
                absent[place] = error
    return found


def _fits(adapter: Adapter, base: BaseModel, module: str) -> bool:
    if adapter.config.peft_type not in TUNERS:
        return base.find(f"{module}.weight") is not None
    alone = replace(adapter, store=select(adapter.store, adapter.modules[module].values()))
    return plan_of(alone, base)[0] is not None


def with_shapes(base: BaseModel, adapter: Adapter) -> BaseModel:
    """A base that is only a config, with the shapes of its family's table in place of tensors, where there is one."""
    if base.store or base.config is None:
        return base
    shapes = parameter_shapes(trained_config(base.config, adapter.config))
    return base if shapes is None else replace(base, store=shapes_store(shapes, f"{base.path} (config only)"))


def layers_of(base: BaseModel, stack: str) -> int | None:
    """How many layers a stack of the adapter ("model.layers") has in the base, whatever prefix either has before it."""
    found = {
        place.layer
        for name in base.store
        if (place := place_of(name)).layer is not None and _same_stack(place.stack, stack)
    }
    return max(layer for layer in found if layer is not None) + 1 if found else None


def _same_stack(one: str, other: str) -> bool:
    return one == other or one.endswith(f".{other}") or other.endswith(f".{one}")


def base_norms(adapter: Adapter, base: BaseModel) -> Mapping[str, float]:
    """‖W‖_F of what each module changes, by the key of its A; streamed, float64. Modules the base lacks are left out.

    All the tensors one update lands on count: the experts of a layer, gate and up of a fused pair.
    """
    plan, _ = plan_of(adapter, base)
    if plan is None and (absent := cover(adapter, base).absent):
        fitting = [key for module, parts in adapter.modules.items() if module not in absent for key in parts.values()]
        plan, _ = plan_of(replace(adapter, store=select(adapter.store, fitting)), base)
    if plan is None:
        return {}
    merged = Merged(plan, NumpyCompute(), safe=False)
    landed = {name: frozenset(_factor_keys(patches)) for name, patches in plan.patches.items()}
    squares: dict[str, float] = {}
    for name, energy in run(lambda name: (name, _energy(merged, name)), filter(landed.get, landed), default_workers()):
        for key in landed[name]:
            squares[key] = squares.get(key, 0.0) + energy
    return {key: energy**0.5 for key, energy in squares.items()}


def _factor_keys(patches: Iterable[Patch]) -> Iterator[str]:
    for patch in patches:
        delta = patch.low_rank if isinstance(patch, Dora) else patch
        if isinstance(delta, LowRank):
            yield delta.factors[0].a


def _energy(merged: Merged, name: str) -> float:
    """Σ w² of a tensor before its patches: each row in its own type (float32 for 16 bits), the rows in float64."""
    info, compute, total = merged[name], NumpyCompute(), 0.0
    # Store's own cut: Merged would cut by tiles
    for start, stop in Store.spans(merged, name, BLOCK_BYTES):
        values = compute.load(merged.unmerged(name, start, stop), info.dtype)
        norms = compute.row_norms(values.reshape(-1, info.columns)).astype(np.float64)
        total += float(norms @ norms)
    return total
