"""Two configs compared field by field, defaults written out, each difference with what it does.

What differs only in spelling is no difference (adapters/canonical.py): an order, a default, 16 for 16.0. Ranks, scales
and targets are told from what both configs make of the modules that were saved, not from the field that changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Literal

from adaptool.adapters.adapter import Adapter
from adaptool.adapters.canonical import PATTERNS, peft_type_of, same
from adaptool.adapters.schema import default_of, fields_of, nested_class
from adaptool.comparing.config_effects import Effects
from adaptool.comparing.result import ConfigChange

MOST_LEAVES = 200
"""Of one field that holds an object: a stranger's may have a million."""

FIRST = ("peft_type", "base_model_name_or_path", "revision", "r", "lora_alpha", "rank_pattern", "alpha_pattern",
         "use_rslora", "target_modules")  # fmt: skip
"""Fields that are listed first, in this order; the others follow by name."""

Defaulted = Literal["", "before", "after"]


def compare_configs(before: Adapter, after: Adapter) -> tuple[ConfigChange, ...]:
    """Every field that means another thing; what matters comes first within each field's place."""
    kinds = peft_type_of(before.config), peft_type_of(after.config)
    effects = Effects(before, after)
    changes = [] if kinds[0] == kinds[1] else [_other_type(kinds)]
    old, new = effects.sides
    for name in sorted({*old, *new}, key=_place):
        if not same(old.get(name), new.get(name)) and not _of_other_type(name, kinds, before, after):
            changes += _changes(name, old.get(name), new.get(name), effects)
    return tuple(changes)


def _place(name: str) -> tuple[int, str]:
    return (FIRST.index(name) if name in FIRST else len(FIRST)), name


def _other_type(kinds: tuple[str, str]) -> ConfigChange:
    return ConfigChange("peft_type", kinds[0] or None, kinds[1] or None, "an adapter of another kind", True)


def _of_other_type(name: str, kinds: tuple[str, str], before: Adapter, after: Adapter) -> bool:
    """Whether a field differs only because one of two types does not have it, and the other's file leaves it alone."""
    if kinds[0] == kinds[1]:
        return False
    sides = zip(kinds, (before, after), strict=True)
    return all(name not in side.config.fields or _at_default(name, kind, side) for kind, side in sides)


def _at_default(name: str, kind: str, side: Adapter) -> bool:
    value = side.config.fields[name]
    return value in (None, False) or value == [] or value == {} or (
        name in fields_of(kind) and same(value, default_of(kind, name))
    )  # fmt: skip


def _changes(name: str, old: Any, new: Any, effects: Effects) -> Iterator[ConfigChange]:
    """One field's change, or those of the object it holds."""
    leaves = list(islice(_leaves(name, old, new, effects.kind), MOST_LEAVES + 1))
    for path, key, was, now in leaves[:MOST_LEAVES]:
        effect, matters = effects.of(name, key, was, now)
        yield ConfigChange(path, was, now, effect, matters, _defaulted(name, effects))
    if len(leaves) > MOST_LEAVES:
        many = sum(len(side) for side in (old, new) if side is not None) - MOST_LEAVES
        yield ConfigChange(f"{name}.…", None, None, f"and up to {many} more entries", True)


def _defaulted(name: str, effects: Effects) -> Defaulted:
    """The side whose file does not name the field."""
    if name not in effects.before.config.fields:
        return "before"
    return "" if name in effects.after.config.fields else "after"


def _leaves(name: str, old: Any, new: Any, kind: str) -> Iterator[tuple[str, str | None, Any, Any]]:
    """(path, key, before, after) of every entry that differs; the field itself where it holds no objects."""
    sides = [dict(value) if _is_pairs(name, value) else value for value in (old, new)]
    inner = nested_class(fields_of(kind).get(name, {}))
    if name in PATTERNS:
        sides = [{} if side is None else side for side in sides]
    if not all(isinstance(side, dict) for side in sides):
        yield name, None, old, new
        return
    was, now = sides
    differ = False
    for key in (*was, *(key for key in now if key not in was)):
        one, other = (_with_default(side, key, inner) for side in (was, now))
        if not same(one, other):
            differ = True
            yield f"{name}.{key}", key, one, other
    if not differ:
        yield name, None, list(was), list(now)  # the same patterns, tried in another order


def _is_pairs(name: str, value: Any) -> bool:
    """Whether these are patterns of which the order matters, as pairs."""
    return name in PATTERNS and isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) for pair in value
    )  # fmt: skip


def _with_default(values: Mapping[str, Any], key: str, inner: str | None) -> Any:
    known = fields_of(inner).get(key) if inner is not None else None
    return values.get(key, known["default"] if known is not None else None)
