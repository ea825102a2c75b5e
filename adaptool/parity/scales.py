"""The scales a wrong merge is known to use instead of s: what an ignored field of the config makes of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from adaptool.adapters.adapter import Adapter
from adaptool.adapters.config import AdapterConfig
from adaptool.adapters.names import parse
from adaptool.adapters.patches import Dora, LowRank, Patch
from adaptool.adapters.tuners import tuner_for

Origins = Sequence[tuple[Adapter, float]]
"""The adapters of a merge and their weights, in order."""


@dataclass(frozen=True, slots=True)
class Excuse:
    """A factor on the right scale, and the mistake that gives it; no words where the factor speaks for itself."""

    k: float
    words: str


PLAIN = (Excuse(0.0, ""), Excuse(1.0, ""), Excuse(2.0, ""), Excuse(-1.0, ""))


def excuses(patches: Sequence[Patch], origins: Origins) -> tuple[Excuse, ...]:
    """Every known wrong scale of a tensor with one low-rank update; the plain ones for any other."""
    low_rank = [found for patch in patches if (found := low_rank_of(patch)) is not None]
    if len(low_rank) != 1:
        return PLAIN
    return (*PLAIN, *(excuse for excuse in _mistakes(low_rank[0], origins) if not math.isclose(excuse.k, 1.0)))


def low_rank_of(patch: Patch) -> LowRank | None:
    """The low-rank update in a patch."""
    return patch.low_rank if isinstance(patch, Dora) else patch if isinstance(patch, LowRank) else None


def _mistakes(patch: LowRank, origins: Origins) -> Iterator[Excuse]:
    factors = patch.factors[0]
    origin = next(((adapter, weight) for adapter, weight in origins if adapter.store is factors.store), None)
    root = math.sqrt(factors.rank)
    if patch.scale:
        yield Excuse(1 / patch.scale, "as if its scale were 1")
    if origin is None:
        yield Excuse(1 / root, "α/r in place of rsLoRA's α/√r")
        yield Excuse(root, "α/√r in place of α/r")
        return
    adapter, weight = origin
    config = adapter.config
    if weight not in (0, 1):
        yield Excuse(1 / weight, f"its weight {weight:g} ignored")
    if config.flag("use_rslora"):
        yield Excuse(1 / root, "use_rslora ignored: α/r in place of α/√r")
    else:
        yield Excuse(root, "scaled by α/√r as rsLoRA does, which its config does not ask for")
        yield Excuse(float(factors.rank), "α not divided by r")
    module = parse(factors.a, tuner_for(config).part).module.replace(".base_layer", "")
    yield from _ignored_patterns(config, module)


def _ignored_patterns(config: AdapterConfig, module: str) -> Iterator[Excuse]:
    """What ``module``'s scale is without alpha_pattern, without rank_pattern, and without both if that is a third."""
    right, seen = config.scale_of(module), set()
    for ignored in (("alpha_pattern",), ("rank_pattern",), ("alpha_pattern", "rank_pattern")):
        if right and all(config.fields.get(name) for name in ignored):
            without = AdapterConfig({**config.fields, **dict.fromkeys(ignored)}, config.where)
            k = without.scale_of(module) / right
            if k not in seen:
                seen.add(k)
                yield Excuse(k, f"{' and '.join(ignored)} ignored")
