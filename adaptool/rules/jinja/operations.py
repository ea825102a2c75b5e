"""What Jinja's operators, filters and methods come to on small values, and a stop where they would come to too much."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import nodes

LONGEST = 50_000
"""Characters or elements that expressions of literals may come to: no prompt is put together to be longer."""

HUGE = 1_000_000
"""Beyond this many characters, elements or steps a template does more than any conversation needs."""

LONGEST_RANGE = 100_000
"""jinja2.sandbox.MAX_RANGE: transformers' own renderer stops there."""

DEEPEST = 120
"""Postfixes and brackets around one value."""


class Unknown(Exception):  # noqa: N818  (not an error: the expression depends on the conversation)
    """What the expression comes to depends on the conversation."""


class Runaway(Exception):  # noqa: N818
    """The expression comes to something huge; the text says what."""


class TooDeep(Exception):  # noqa: N818
    """More brackets than are followed."""


def small(value: Any) -> Any:
    """The value, if it is one that is followed."""
    if isinstance(value, str | list | tuple | dict) and len(value) > LONGEST:
        raise Runaway(f"puts together {len(value)} characters or entries")
    return value


def as_text(value: Any) -> str:
    """What a template prints of a plain value."""
    if isinstance(value, str | int | float | bool) or value is None:
        return str(value)
    raise Unknown


def _add(left: Any, right: Any) -> Any:
    if isinstance(left, str | list | tuple) and type(left) is type(right):
        return left + right  # type: ignore[operator]
    return number(left) + number(right)


def _multiply(left: Any, right: Any) -> Any:
    if isinstance(right, str | list | tuple):
        left, right = right, left
    if isinstance(left, str | list | tuple):
        count = number(right)
        if len(left) * count > LONGEST:
            raise Runaway(f"repeats a text {count} times")
        return left * int(count)
    return number(left) * number(right)


def _power(left: Any, right: Any) -> Any:
    base, exponent = number(left), number(right)
    if abs(base) > 1 and abs(exponent) > 64:
        raise Runaway(f"raises {base} to the power {exponent}")
    try:
        value = base**exponent
    except (ZeroDivisionError, OverflowError):
        raise Unknown from None
    return number(value)


def _divide(left: Any, right: Any) -> Any:
    if not number(right):
        raise Unknown
    return number(left) / right


def _modulo(left: Any, right: Any) -> Any:
    if isinstance(left, str):
        return formatted(left, right if isinstance(right, tuple) else (right,))
    if not number(right):
        raise Unknown
    return number(left) % right


def number(value: Any) -> Any:
    """The number it is, if it is one of a size that is cheap to work with."""
    if not isinstance(value, int | float) or abs(value) > 1e300 or value != value:
        raise Unknown
    return value


def formatted(pattern: str, values: tuple[Any, ...]) -> str:
    """``pattern % values`` for the plain conversions; a field wider than HUGE is a Runaway."""
    if re.search(r"%[^a-zA-Z%]{0,9}(?:\d{6,}|\*)", pattern):
        raise Runaway("formats a field of a million characters or more")
    waiting = list(values)

    def one(found: re.Match[str]) -> str:
        if found[0] == "%%":
            return "%"
        if not waiting:
            raise Unknown
        value = waiting.pop(0)
        if found[1] == "c" and isinstance(value, int):
            return chr(value) if 0 <= value < 0x110000 else ""
        return as_text(value)

    return re.sub(r"%(?:[-+ #0]?\d{0,3}(?:\.\d{1,3})?([a-zA-Z])|%)", one, pattern)


def _braced(pattern: str, values: list[Any]) -> str:
    """``pattern.format(*values)`` for plain fields."""
    if re.search(r"\{[^{}]{0,20}:[^{}]{0,9}\d{6,}", pattern):
        raise Runaway("formats a field of a million characters or more")
    waiting = iter(values)

    def one(found: re.Match[str]) -> str:
        value = values[int(found[1])] if found[1] and int(found[1]) < len(values) else next(waiting, None)
        return chr(value) if found[2] == "c" and isinstance(value, int) and 0 <= value < 0x110000 else as_text(value)

    return re.sub(r"\{(\d{0,3})(?::(\w?))?\}", one, pattern)


def counted(ends: list[Any]) -> range:
    """``range(*ends)``, if it is short."""
    try:
        found = range(*(int(number(end)) for end in ends))
        count = len(found)
    except (TypeError, ValueError):
        raise Unknown from None
    except OverflowError:
        count = LONGEST_RANGE + 1
    if count > LONGEST_RANGE:
        raise Runaway(f"counts up in a range of {ends[-1] if len(ends) < 3 else ends[1]}")
    return found


def applied(work: Callable[..., Any], values: list[Any]) -> Any:
    """``work(*values)``; Unknown where they do not fit it."""
    try:
        return work(*values)
    except (TypeError, ValueError, AttributeError, IndexError, KeyError, OverflowError, StopIteration):
        raise Unknown from None


def _join(values: Any, by: str = "") -> str:
    if len(values) * (len(by) + 1) > LONGEST:
        raise Runaway(f"joins {len(values)} pieces")
    return by.join(as_text(value) for value in values)


def _replace(text: str, old: str, new: str, count: int = -1) -> str:
    if (text.count(old) + 1) * len(new) > LONGEST:
        raise Runaway("replaces a text by a huge one")
    return text.replace(old, new, count)


OPERATORS: Mapping[type, Callable[[Any, Any], Any]] = {
    nodes.Add: _add, nodes.Sub: lambda left, right: number(left) - number(right), nodes.Mul: _multiply,
    nodes.Div: _divide, nodes.FloorDiv: lambda left, right: _divide(left, right) // 1, nodes.Mod: _modulo,
    nodes.Pow: _power,
}  # fmt: skip

FILTERS: Mapping[str, Callable[..., Any]] = {
    "join": _join, "lower": lambda value: as_text(value).lower(), "upper": lambda value: as_text(value).upper(),
    "reverse": lambda value: value[::-1], "replace": _replace, "format": lambda value, *rest: formatted(value, rest),
    "string": as_text, "trim": lambda value, *rest: value.strip(*rest), "first": lambda value: next(iter(value)),
    "last": lambda value: value[-1], "list": lambda value: list(value), "length": len, "int": lambda value: int(value),
    "abs": abs, "title": lambda value: value.title(), "safe": lambda value: value, "sort": sorted,
    "capitalize": lambda value: value.capitalize(),
}  # fmt: skip

METHODS: Mapping[str, Callable[..., Any]] = {
    "lower": lambda value: value.lower(), "upper": lambda value: value.upper(), "replace": _replace,
    "format": lambda value, *rest: _braced(value, list(rest)), "join": lambda by, values: _join(values, by),
    "strip": lambda value, *rest: value.strip(*rest), "lstrip": lambda value, *rest: value.lstrip(*rest),
    "rstrip": lambda value, *rest: value.rstrip(*rest), "title": lambda value: value.title(),
    "swapcase": lambda value: value.swapcase(), "capitalize": lambda value: value.capitalize(),
    "removeprefix": lambda value, piece: value.removeprefix(piece),
    "removesuffix": lambda value, piece: value.removesuffix(piece), "split": lambda value, *rest: value.split(*rest),
}  # fmt: skip
