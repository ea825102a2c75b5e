"""LoRA's variants: which patches a module's delta becomes, and how PEFT rounds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from adaptool.adapters.patches import Dora, DoraByColumn, LowRank, OnceNorms, Patch, Truncate
from adaptool.errors import MismatchError

if TYPE_CHECKING:
    from adaptool.adapters.adapter import Adapter
    from adaptool.adapters.config import AdapterConfig
    from adaptool.adapters.tuners.sites import Site


def variant_patches(adapter: Adapter, site: Site, delta: LowRank, parts: Mapping[str, str]) -> list[Patch]:
    """The patches a module's variant makes of its delta."""
    config = adapter.config
    if config.flag("use_dora"):
        magnitude = parts.get("lora_magnitude_vector", parts.get("lora_magnitude_vector.weight"))
        if magnitude is None:
            raise MismatchError(f"{adapter.path}: use_dora is set and {site.tensor} has no lora_magnitude_vector")
        if site.swapped:
            return [DoraByColumn(delta, magnitude, OnceNorms())]
        return [Dora(delta, magnitude)]
    if config.fields.get("kasa_config") is not None:
        if "lora_diag" not in parts:
            raise MismatchError(f"{adapter.path}: kasa_config is set and {site.tensor} has no lora_diag")
        return [Truncate(delta.factors[0].rank), delta]
    return [delta, *(replace(delta, rounding=rounding) for rounding in site.roundings[1:])]


def magnitude_keys(adapter: Adapter, module: str, parts: Mapping[str, str]) -> set[str]:
    if not adapter.config.flag("use_dora"):
        return set()
    return {key for part, key in parts.items() if part.startswith("lora_magnitude_vector")}


def variant_rounds_twice(config: AdapterConfig) -> bool:
    return bool(
        config.fields.get("use_bdlora")
        or config.fields.get("kasa_config") is not None
        or config.fields.get("init_lora_weights") == "mica"
    )


def check_ranks(adapter: Adapter, module: str, declared: int, in_a: int, in_b: int) -> None:
    if not declared == in_a == in_b:
        raise MismatchError(
            f"{adapter.path}: {module} has rank {in_a} in lora_A, {in_b} in lora_B, and the config declares {declared}",
            hint="the scale would be wrong: correct r or rank_pattern in adapter_config.json",
        )
