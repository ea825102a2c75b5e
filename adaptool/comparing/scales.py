"""What a config change does to the ranks and scales of the modules that are saved, grouped as people say it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property

from adaptool.adapters.adapter import Adapter
from adaptool.adapters.backtracking import worst_name
from adaptool.adapters.config import matches
from adaptool.adapters.names import projection_of
from adaptool.errors import AdaptoolError, FormatError
from adaptool.summary.contents import low_rank_modules, place_of

SHOWN_GROUPS, SHOWN_NAMES = 3, 4
"""Groups, and projections of a group, that a sentence lists."""

RANKED, SCALED = ("r", "rank_pattern"), ("lora_alpha", "alpha_pattern")
FIELDS = (*RANKED, *SCALED, "use_rslora")
"""What decides a LoRA's ranks and scales."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What one side's config makes of one module."""

    rank: int
    alpha: float
    scale: float
    rank_key: str | None
    """The key of rank_pattern that the rank is from; None: it is ``r``."""
    alpha_key: str | None


@dataclass(frozen=True)
class Scales:
    """The modules that both sides have, and what each makes of them."""

    before: Mapping[str, Setting]
    after: Mapping[str, Setting]
    rooted: tuple[bool, bool]
    """Whether each is rsLoRA."""

    @cached_property
    def common(self) -> Sequence[str]:
        """In the order of the file."""
        return [name for name in self.before if name in self.after]

    @cached_property
    def _by_key(self) -> Mapping[tuple[str, str | None], Sequence[str]]:
        """(field, key of its pattern) → the common modules that one side has its rank or alpha from."""
        found: dict[tuple[str, str | None], dict[str, None]] = {}
        for name in self.common:
            for side in (self.before[name], self.after[name]):
                found.setdefault(("rank_pattern", side.rank_key), {})[name] = None
                found.setdefault(("alpha_pattern", side.alpha_key), {})[name] = None
        return {key: list(names) for key, names in found.items()}

    def effect(self, field: str, key: str | None) -> tuple[str, bool]:
        """What changing ``field`` (of a pattern: ``key`` of it, None for the order of all) does, and if it matters."""
        pattern = "rank_pattern" if field in RANKED else "alpha_pattern"
        whole = field == "use_rslora" or (field == pattern and key is None)
        affected = self.common if whole else self._by_key.get((pattern, key), ())
        kind = _rank if field in RANKED else _scale if field == "use_rslora" else _alpha
        moved = [name for name in affected if kind(self.before[name]) != kind(self.after[name])]
        if not moved:
            return ("no module of the two has another value by it" if affected else "no saved module uses it"), False
        return "; ".join(self._changes(moved, ranked=field in RANKED)) + self._root(moved), True

    def _changes(self, names: Iterable[str], *, ranked: bool) -> list[str]:
        """ "rank 16 → 32, scale 2 → 1 on q_proj": the modules by what happened to them, the most first."""
        groups: dict[tuple[tuple[float, float] | None, tuple[float, float]], list[str]] = {}
        for name in names:
            old, new = self.before[name], self.after[name]
            ranks = (old.rank, new.rank) if ranked else None
            groups.setdefault((ranks, (old.scale, new.scale)), []).append(name)
        if not ranked and all(old == new for _, (old, new) in groups):
            scales = {new for _, (_, new) in groups}
            return [f"the scale stays {number(scales.pop())}" if len(scales) == 1 else "every scale stays"]
        said = [self._group(*pairs, group) for pairs, group in sorted(groups.items(), key=lambda item: -len(item[1]))]
        rest = len(said) - SHOWN_GROUPS
        return [*said[:SHOWN_GROUPS], f"and {rest} more such changes"] if rest > 1 else said

    def _group(self, ranks: tuple[float, float] | None, scales: tuple[float, float], names: Sequence[str]) -> str:
        where, stays = told(names, self.common), scales[0] == scales[1]
        changes = [f"rank {arrow(*ranks)}"] if ranks is not None else []
        changes += [] if stays else [f"scale {arrow(*scales)}"]
        if not changes:
            return f"the scale stays {number(scales[0])} on {where}"
        return f"{', '.join(changes)} on {where}" + (f" (the scale stays {number(scales[0])})" if stays else "")

    def _root(self, names: Iterable[str]) -> str:
        """How rsLoRA comes into it, where it begins or ends."""
        if all(self.before[name].scale == self.after[name].scale for name in names):
            return ""
        return {(False, True): " (rsLoRA: α/√r)", (True, False): " (no longer rsLoRA: α/r)"}.get(self.rooted, "")


def _rank(setting: Setting) -> float:
    return setting.rank


def _alpha(setting: Setting) -> float:
    return setting.alpha


def _scale(setting: Setting) -> float:
    return setting.scale


def scales_of(before: Adapter, after: Adapter) -> Scales | None:
    """The ranks and scales of two LoRAs; None of other types, and where a config does not say them in order."""
    try:
        sides = [_settings(adapter) for adapter in (before, after)]
        return Scales(sides[0], sides[1], (before.config.flag("use_rslora"), after.config.flag("use_rslora")))
    except (AdaptoolError, RecursionError):
        return None


def _settings(adapter: Adapter) -> Mapping[str, Setting]:
    config = adapter.config
    for patterns in (config.rank_patterns, config.alpha_patterns):
        for key in patterns.expressions:
            refuse_runaway(rf"(.*\.)?({key})$", patterns.where)
    return {
        m.name: Setting(m.declared_rank, m.alpha, m.applied_scale, config.rank_patterns.first(m.name),
                        config.alpha_patterns.first(m.name))
        for m in low_rank_modules(adapter)
    }  # fmt: skip


def refuse_runaway(expression: str, where: str) -> None:
    """Raise FormatError for what is no expression, or one on which a matcher takes absurdly long."""
    matches(expression, "", where)
    if worst_name(expression) is not None:
        raise FormatError(f"{where}: the expression runs away", defect="runaway-pattern")


def arrow(old: float, new: float) -> str:
    """ "2 → 2.83", with as many digits as tell the two apart."""
    digits = next((n for n in (3, 5, 8) if number(old, n) != number(new, n)), 17)
    return f"{number(old, digits)} → {number(new, digits)}"


def number(value: float, digits: int = 3) -> str:
    """A rank or scale as people write it: whole ones whole, others to some digits."""
    if abs(value) < 1e15 and value == int(value):
        return str(int(value))
    if 100 <= abs(value) < 1e6:
        return f"{value:.{max(digits - 3, 1)}f}"
    is_beyond_floats = isinstance(value, int) and abs(value) > 1e300
    return f"{Decimal(value):.{digits}g}" if is_beyond_floats else f"{value:.{digits}g}"


def told(modules: Sequence[str], every: Sequence[str]) -> str:
    """Some of ``every`` module: "all 224 modules", "k_proj, v_proj", "k_proj in layers 0–3, 7"."""
    if len(modules) == len(every):
        return "its one module" if len(every) == 1 else f"all {len(every)} modules"
    mine, all_ = by_projection(modules), by_projection(every)
    said = [name if len(names) == len(all_[name]) else f"{name} in {layers(names)}" for name, names in mine.items()]
    rest = sum(len(names) for names in list(mine.values())[SHOWN_NAMES:])
    return ", ".join(said[:SHOWN_NAMES]) + (f" and {rest} more modules" if rest else "")


def by_projection(modules: Iterable[str]) -> Mapping[str, Sequence[str]]:
    """Modules by the last part of their names."""
    found: dict[str, list[str]] = {}
    for module in modules:
        found.setdefault(projection_of(module), []).append(module)
    return found


def layers(modules: Sequence[str]) -> str:
    """Which layers modules are in: "layer 3", "layers 0–3, 7"."""
    numbers = sorted({layer for module in modules if (layer := place_of(module).layer) is not None})
    if not numbers:
        return "1 module" if len(modules) == 1 else f"{len(modules)} modules"
    runs: list[list[int]] = []
    for layer in numbers:
        if runs and runs[-1][-1] == layer - 1:
            runs[-1][1:] = [layer]
        else:
            runs.append([layer])
    said = ["–".join(map(str, run)) if len(run) == 1 or run[1] - run[0] > 1 else f"{run[0]}, {run[1]}" for run in runs]
    listed = ", ".join(said[:8]) + (" …" if len(said) > 8 else "")
    return f"layer {listed}" if len(numbers) == 1 else f"layers {listed}"
