"""Scales baked into B: a LoRA of any scales as a plain one, for runtimes that know only lora_alpha / r.

ΔW = s·B@A with a scale s and a rank r of each module's own becomes 1·(s·B)@A, with lora_alpha = r and r the largest
rank, or the one a runtime would pad it to: smaller factors are padded with rows and columns of zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from adaptool.adapters.adapter import Adapter
from adaptool.errors import UnsupportedError
from adaptool.rules.families.consumers.stacked import padded
from adaptool.summary.contents import LowRankModule, low_rank_modules, misshapen, orphans
from adaptool.tensors.dtypes import F32, Array, DType, narrow, widen
from adaptool.tensors.store import Extent, Store, TensorInfo, into
from adaptool.tensors.views import View

ONE_SCALE = {"sglang", "lorax", "tgi", "ollama", "llama.cpp", "tensorrt-llm"}
"""Runtimes that take lora_alpha / r of the config for every module, or something near it."""


@dataclass(frozen=True, eq=False)
class Scaled(View):
    """``source`` with some tensors multiplied, padded with zeros, and held in another type."""

    source: Store
    scales: Mapping[str, float]
    padded: Mapping[str, tuple[int, ...]]
    """Key → its shape with the padding, always behind what is there."""
    kinds: Mapping[str, DType]

    @cached_property
    def infos(self) -> Mapping[str, TensorInfo]:
        return {
            name: replace(info, shape=self.padded.get(name, info.shape), dtype=self.kinds.get(name, info.dtype))
            for name, info in self.source.infos.items()
        }

    def read(self, name: str, start: int = 0, stop: int | None = None, out: Array | None = None) -> Array:
        old, (info, start, stop) = self.source[name], self.span(name, start, stop)
        if self._same(name):
            return self.source.read(name, start, stop, out)
        there = max(0, min(stop, old.rows) - start)
        values = np.zeros((stop - start, info.columns), np.float64)
        if there:
            held = widen(self.source.read(name, start, start + there), old.dtype)
            values[:there, : old.columns] = held * self.scales.get(name, 1.0)
        return into(out, narrow(values, info.dtype))

    def extent(self, name: str) -> Extent | None:
        return self.source.extent(name) if self._same(name) else None

    def _same(self, name: str) -> bool:
        return name not in self.scales and name not in self.padded and name not in self.kinds


@dataclass(frozen=True)
class Baked:
    """A plain LoRA: its tensors, and the fields of its config that say so."""

    store: Scaled
    rank: int
    fields: Mapping[str, Any]
    padded: int
    """Modules whose factors were padded."""
    widened: bool


PADDED = {"lorax", "tgi"}
"""Runtimes that pad ranks to those of their kernels, and then divide lora_alpha by the padded one."""


def bake(adapter: Adapter, consumers: frozenset[str]) -> Baked | None:
    """The adapter with its scales baked in, where one of ``consumers`` would read them wrongly; else None.

    Raises UnsupportedError where its layout has no plain form.
    """
    if adapter.config.peft_type != "LORA" or not consumers & ONE_SCALE:
        return None
    modules = tuple(low_rank_modules(adapter))
    rank = max((module.rank for module in modules), default=0)
    if consumers & PADDED:
        rank = padded(rank)
    uneven = sum(module.rank != rank for module in modules)
    if not _has_own_scales(adapter) and not (consumers & PADDED and uneven):
        return None
    if not modules or orphans(adapter) or misshapen(adapter) or any(m.rank != m.declared_rank for m in modules):
        return None  # a broken adapter: the findings say so
    _refuse(adapter, modules, rank)
    scales = {key: scale for module in modules for key, scale in _scaled_keys(adapter, module) if scale != 1}
    shapes = {key: shape for module in modules for key, shape in _padded(adapter.store, module, rank)}
    factors = [key for module in modules for key in (module.factors[0].a, module.factors[0].b)]
    narrow_kinds = any(adapter.store[key].dtype.bits < F32.bits for key in (*factors, *scales))
    widened = bool(scales) and narrow_kinds
    kinds = {key: F32 for key in (*factors, *scales) if adapter.store[key].dtype.bits < F32.bits} if widened else {}
    fields = {"r": rank, "lora_alpha": rank, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}
    return Baked(Scaled(adapter.store, scales, shapes, kinds), rank, fields, uneven, widened)


def _has_own_scales(adapter: Adapter) -> bool:
    config = adapter.config
    own = any(config.fields.get(name) for name in ("use_rslora", "rank_pattern", "alpha_pattern"))
    return own or isinstance(config.fields.get("lora_alpha"), float)


def _refuse(adapter: Adapter, modules: tuple[LowRankModule, ...], rank: int) -> None:
    """Layouts in which a rank is more than a number of rows."""
    for name in ("use_bdlora", "kasa_config", "layer_replication"):
        if adapter.config.fields.get(name) is not None:
            raise UnsupportedError(
                f"{adapter.path}: {name} is set, and such an adapter has no plain LoRA's form",
                hint="merge it: adaptool merge",
            )
    experts = next((module.name for module in modules if len(module.factors) > 1), None)
    if experts is not None and any(module.rank != rank for module in modules):
        raise UnsupportedError(
            f"{adapter.path}: {experts} holds experts, whose ranks cannot be padded to another module's",
            hint="merge it: adaptool merge",
        )


def _scaled_keys(adapter: Adapter, module: LowRankModule) -> list[tuple[str, float]]:
    """B, and the bias that lora_bias adds at the same scale."""
    b = module.factors[0].b
    bias = b.removesuffix(".weight") + ".bias"
    keys = [b, bias] if b.endswith("lora_B.weight") and bias in adapter.store else [b]
    return [(key, module.scale) for key in keys]


def _padded(store: Store, module: LowRankModule, rank: int) -> list[tuple[str, tuple[int, ...]]]:
    if module.rank == rank:
        return []
    a, b = store[module.factors[0].a], store[module.factors[0].b]
    return [(a.name, (rank, *a.shape[1:])), (b.name, (b.shape[0], rank, *b.shape[2:]))]
