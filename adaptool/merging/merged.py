"""Merging: base + adapters as a Store, of which nothing is computed until a row is read.

Fidelity: bit for bit what PEFT's ``merge_and_unload`` leaves in bf16 and f16 (``rounding="once"``), or what its
``safe_merge=True`` leaves (``"safe"``); docs/fidelity.md lists where PEFT is wrong and this is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from adaptool.adapters.adapter import Adapter
from adaptool.adapters.base import BaseModel
from adaptool.adapters.blocks import Block, tile_stop
from adaptool.adapters.patches import Dora, DoraByColumn, LowRank, Patch
from adaptool.adapters.plan import Plan
from adaptool.adapters.tuners import tuner_for
from adaptool.archs.prefixes import base_model_prefix
from adaptool.errors import FormatError, MismatchError, UnsupportedError
from adaptool.tensors.compute import Compute, NumpyCompute
from adaptool.tensors.dtypes import Array, Floats, narrow, widen
from adaptool.tensors.store import Extent, Store, TensorInfo

Rounding = Literal["once", "safe"]


@dataclass(frozen=True, slots=True)
class Layout:
    """A tensor as the matrices its patches see: blocks of ``height`` rows of ``width`` elements."""

    height: int
    width: int
    rows: int
    """Of all matrices together."""
    unit: int
    """Store rows in one of them: a convolution's row is a whole output channel."""


@dataclass(frozen=True, eq=False)
class Merged(Store):
    """The merged model. Reading a row computes it; untouched tensors are the base's own bytes."""

    plan: Plan
    compute: Compute
    safe: bool

    @cached_property
    def infos(self) -> Mapping[str, TensorInfo]:
        plan = self.plan
        own = {name: plan.info(name) for name in plan.base.store}
        new = {name: replace(plan.info(name), name=name) for name in (*plan.copied, *plan.added)}
        return {**own, **new}

    @property
    def metadata(self) -> Mapping[str, str]:
        return {"format": "pt"}

    @cached_property
    def changed(self) -> frozenset[str]:
        """The tensors that are not the base's own bytes."""
        return frozenset(self.plan.touched)

    def extent(self, name: str) -> Extent | None:
        return None if self[name].name in self.changed else self.plan.base.store.extent(name)

    def spans(self, name: str, nbytes: int) -> Iterator[tuple[int, int]]:
        if not self.plan.patches.get(name):
            yield from super().spans(name, nbytes)
            return
        layout = self.layout(name)
        target = max(1, nbytes // max(1, layout.width * self[name].dtype.itemsize))
        row = 0
        while row < layout.rows:
            stop = layout.rows if self._whole(name) else row
            while stop < layout.rows and stop - row < target:
                stop = tile_stop(stop, layout.height, layout.width)
            yield row * layout.unit, stop * layout.unit
            row = stop

    def read(self, name: str, start: int = 0, stop: int | None = None, out: Array | None = None) -> Array:
        info, start, stop = self.span(name, start, stop)
        patches = self.plan.patches.get(name)
        if not patches or start == stop:
            return self.unmerged(name, start, stop, out)
        layout = self.layout(name)
        first, last = (0, layout.rows) if self._whole(name) else self._covering(layout, start, stop)
        exact_fit = (first * layout.unit, last * layout.unit) == (start, stop)
        rows = self.unmerged(name, first * layout.unit, last * layout.unit, out if exact_fit else None)
        apply_in_order(patches, self.block(name, first, rows), self.compute, safe=self.safe)
        if self.safe and not np.isfinite(widen(rows, info.dtype)).all():
            raise MismatchError(
                f"{name}: the merge makes NaN or Inf", hint="the adapter is broken, or its scale absurd"
            )
        if exact_fit:
            return rows
        cut = rows[start - first * layout.unit : stop - first * layout.unit]
        return cut if out is None else _copied(cut, out)

    def block(self, name: str, first: int, rows: Array) -> Block:
        """Unmerged rows of a patched tensor, as what its patches work on."""
        layout = self.layout(name)

        def base(start: int, stop: int) -> Array:
            return self.unmerged(name, start * layout.unit, stop * layout.unit).reshape(stop - start, layout.width)

        return Block(rows.reshape(-1, layout.width), self[name].dtype, first, layout.height, base)

    def unmerged(self, name: str, start: int, stop: int, out: Array | None = None) -> Array:
        """Rows before any patch, in a buffer of the caller's or a new one: never memory someone else holds."""
        plan, info = self.plan, self[name]
        if out is None:
            out = np.empty((stop - start, info.columns), info.dtype.storage)
        source = plan.replaced.get(name) or plan.added.get(name)
        if source is None:
            return plan.base.store.read(plan.copied.get(name, name), start, stop, out)
        stored = source.store[source.key].dtype
        if stored == info.dtype:
            return source.store.read(source.key, start, stop, out)
        return _copied(narrow(widen(source.store.read(source.key, start, stop), stored), info.dtype), out)

    def layout(self, name: str) -> Layout:
        """How the patches of a tensor see it."""
        shape = self[name].shape
        if len(shape) < 2:
            return Layout(1, math.prod(shape), 1, 1)
        if any(isinstance(patch, LowRank) and patch.by_expert for patch in self.plan.patches[name]):
            return Layout(shape[-2], shape[-1], math.prod(shape[:-1]), 1)
        width = math.prod(shape[1:])
        return Layout(shape[0], width, shape[0], width // max(1, shape[-1]))

    def exact(self, name: str, first: int, count: int) -> tuple[Floats, Floats]:
        """Matrix rows ``first`` … of a patched tensor in float64 by plain formulas, unrounded: the sampled truth.

        Beside them the largest magnitude each element went through, which bounds what rounding may have cost.
        """
        layout = self.layout(name)
        block = self.block(name, first, self.unmerged(name, first * layout.unit, (first + count) * layout.unit))
        values: Floats = widen(block.raw, block.kind).astype(np.float64)
        largest = np.abs(values)
        for patch in self.plan.patches[name]:
            updated = patch.exact(values, block)
            largest = np.maximum(largest, np.maximum(np.abs(updated), np.abs(updated - values)))
            values = updated
        return values, largest

    def _whole(self, name: str) -> bool:
        patches = self.plan.patches[name]
        return any(patch.whole for patch in patches) or any(isinstance(patch, DoraByColumn) for patch in patches[1:])

    def _covering(self, layout: Layout, start: int, stop: int) -> tuple[int, int]:
        """The whole tiles that cover store rows ``start:stop``."""
        first, last = start // layout.unit, -(-stop // layout.unit)
        row = first - first % layout.height
        while (edge := tile_stop(row, layout.height, layout.width)) <= first < layout.rows:
            row = edge
        end = row
        while end < last:
            end = tile_stop(end, layout.height, layout.width)
        return row, end

    def __str__(self) -> str:
        return f"{self.plan.base.path} merged"


def apply_in_order(patches: Sequence[Patch], block: Block, compute: Compute, *, safe: bool) -> None:
    """Apply each adapter's patch in turn, rounding in between, in place.

    A DoRA adapter's norm is of the unmerged weight. PEFT gets that back by unmerging the adapters before it and
    merges them again afterwards, each step rounded; so does this, to end at the same bits.
    """
    for number, patch in enumerate(patches):
        earlier = [done for done in patches[:number] if isinstance(done, LowRank | Dora)]
        if isinstance(patch, Dora) and earlier:
            for done in reversed(earlier):
                done.undo(block, compute)
            block = replace(block, base=_snapshot(block))
            for done in earlier:
                done.apply(block, compute, safe=safe)
        patch.apply(block, compute, safe=safe)


def _snapshot(block: Block) -> Callable[[int, int], Array]:
    kept, first = block.raw.copy(), block.start
    return lambda start, stop: kept[start - first : stop - first]


def _copied(rows: Array, out: Array) -> Array:
    np.copyto(out, rows.reshape(out.shape))
    return out


def merge(
    base: BaseModel,
    adapters: Sequence[tuple[Adapter, float]],
    *,
    rounding: Rounding = "once",
    compute: Compute | None = None,
) -> Merged:
    """Base and weighted adapters, applied in order, as one Store; only headers and small tensors are read.

    Raises UnsupportedError for an adapter that cannot be merged faithfully, MismatchError where it does not fit the
    base, where a tensor of it is left over, or where it would change nothing.
    """
    plan = Plan(base)
    for adapter, weight in adapters:
        _plan_one(adapter, weight, plan)
    refuse_lost_rows(plan)
    for name in plan.touched:
        kind, whole = plan.info(name).dtype, plan.replaced.get(name)
        counts = name not in plan.patches and whole is not None and whole.store[whole.key].dtype == kind
        if not kind.mergeable and not counts:  # a trained batch norm brings its num_batches_tracked, copied as it is
            raise UnsupportedError(
                f"{base.path}: {name} is {kind}, which cannot be merged into",
                hint="give --base the 16-bit model it was made from",
            )
    _refuse_no_effect(plan, adapters)
    if any(weight != 1 for _, weight in adapters) and (plan.replaced or plan.added):
        plan.note("weights scale LoRA updates only: tensors the adapter saved whole are taken as they are")
    return Merged(plan, compute or NumpyCompute(), rounding == "safe")


def _plan_one(adapter: Adapter, weight: float, plan: Plan) -> None:
    tuner = tuner_for(adapter.config)
    if refusal := tuner.refusal(adapter.config):
        raise UnsupportedError(f"{adapter.path}: {refusal.reason}", hint=refusal.way_out)
    if adapter.strangers:
        raise MismatchError(
            f"{adapter.path}: {len(adapter.strangers)} of {len(adapter.store)} keys lack PEFT's prefix "
            f"base_model.model., such as {adapter.strangers[0]!r}: PEFT would ignore them",
            hint="save it with PEFT's save_pretrained",
        )
    used = tuner.plan(adapter, weight, plan)
    left = [key for key in adapter.store if key not in used]
    if left:
        raise MismatchError(
            f"{adapter.path}: nothing in {plan.base.path} or the config accounts for {len(left)} of "
            f"{len(adapter.store)} tensors: {', '.join(left[:3])}{' …' if len(left) > 3 else ''}",
            hint="is this the base it was trained on? PEFT would drop them without a word",
        )
    _refuse_not_finite(adapter)


def refuse_lost_rows(plan: Plan) -> None:
    """Raise MismatchError for a vocabulary resized on one side only: the other side's new rows were never saved."""
    base, embedding, head = plan.base, plan.base.embedding, plan.base.head
    if embedding is None or head is None or base.store[embedding].shape != base.store[head].shape:
        return
    rows = {name: plan.info(name).shape[0] for name in (embedding, head)}
    if rows[embedding] != rows[head]:
        raise MismatchError(
            f"the adapter resized the vocabulary: {embedding} has {rows[embedding]} rows and {head} {rows[head]}",
            hint="save it again with save_embedding_layers=True, so that both are in the adapter",
            defect="lost-rows",
        )


def _refuse_not_finite(adapter: Adapter) -> None:
    for name, info in adapter.store.infos.items():
        if not info.dtype.floating or info.dtype.bits < 8:
            continue
        for start, stop in adapter.store.spans(name, 4 << 20):
            if not np.isfinite(widen(adapter.store.read(name, start, stop), info.dtype)).all():
                raise FormatError(f"{adapter.path}: {name} holds NaN or Inf", hint="the training diverged: retrain")


def _refuse_no_effect(plan: Plan, adapters: Sequence[tuple[Adapter, float]]) -> None:
    """Fail early where every update is zero; what rounding swallows is found when the rows are written."""
    names = ", ".join(str(adapter.path) for adapter, _ in adapters)
    if not plan.patches and not plan.replaced and not plan.added:
        raise MismatchError(
            f"{names}: changes no tensor of {plan.base.path}", hint="is this the base it was trained on?"
        )
    if plan.replaced or plan.added:
        return
    deltas = [patch for patches in plan.patches.values() for patch in patches]
    if all(isinstance(patch, LowRank) and patch.inert for patch in deltas):
        raise MismatchError(
            f"{names}: every update is zero, so the merge would change nothing",
            hint="an adapter is saved like this when it was never trained (lora_B starts at zero)",
        )


def output_prefix(plan: Plan) -> str:
    """What the base's names lack of the merged model's: a task head makes "encoder.…" "bert.encoder.…".

    transformers adds the prefix on loading only where *no* tensor has it and there is no head beside it.
    """
    prefix = base_model_prefix(plan.base.model_type or "") if plan.base.model_type else ""
    heads = [name for name in plan.added if name != plan.untied_head]
    if not prefix or not heads or any(name.startswith(f"{prefix}.") for name in plan.base.store):
        return ""
    return f"{prefix}."
