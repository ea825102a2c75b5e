"""What a config says of sizes, in the few ways PEFT's types say it.

An odd value (a text, a negative number) says nothing here: the rules on the config speak of it.
"""

from __future__ import annotations

from math import prod
from typing import Any

from adaptool.adapters.config import AdapterConfig, first_match, matches
from adaptool.rules.forms.grammar import Expected, Size, Sizes, When


def whole(value: Any) -> int | None:
    """A whole number from 0 on, as JSON has it; else None."""
    return value if type(value) is int and value >= 0 else None


def exactly(text: str, value: Any) -> Expected | None:
    """The size ``value``, where it is one."""
    number = whole(value)
    return None if number is None else Expected(f"{text} = {number}", lambda size: size == number)


def number(name: str, default: int | None = None) -> Size:
    """A field's number."""
    return lambda config, module, sizes: exactly(name, config.fields.get(name, default))


def capped(name: str, default: int, *by: str) -> Size:
    """A field's number, or as much as the module's other sizes allow."""

    def size(config: AdapterConfig, module: str, sizes: Sizes) -> Expected | None:
        most = whole(config.fields.get(name, default))
        return None if most is None else exactly(name, min([most, *(sizes[axis] for axis in by if axis in sizes)]))

    return size


def any_of(*choices: Size) -> Size:
    """Any of several readings of the config."""

    def size(config: AdapterConfig, module: str, sizes: Sizes) -> Expected | None:
        found = [expected for choice in choices if (expected := choice(config, module, sizes)) is not None]
        texts = dict.fromkeys(expected.text for expected in found)
        accepted = " or ".join(texts)
        return Expected(accepted, lambda value: any(expected.accepts(value) for expected in found)) if found else None

    return size


def patterned(name: str, default: int, patterns: str) -> Size:
    """A field's number, or that of the first pattern that matches the module, as rank_pattern is read."""

    def size(config: AdapterConfig, module: str, sizes: Sizes) -> Expected | None:
        table = config.fields.get(patterns)
        key = first_match(table, module, f"{config.where}: {patterns}") if isinstance(table, dict) else None
        if key is not None and isinstance(table, dict):
            return exactly(f"{patterns}[{key!r}]", table[key])
        return exactly(name, config.fields.get(name, default))

    return size


def below_dot(name: str, default: int, patterns: str) -> Size:
    """The same, but a pattern must follow a dot: C3A's and FourierFT's reading."""

    def size(config: AdapterConfig, module: str, sizes: Sizes) -> Expected | None:
        table = config.fields.get(patterns)
        for key in table if isinstance(table, dict) else ():
            if matches(rf".*\.{key}$", module, f"{config.where}: {patterns}"):
                return exactly(f"{patterns}[{key!r}]", table[key])  # type: ignore[index]
        return exactly(name, config.fields.get(name, default))

    return size


def length(name: str) -> Size:
    """How long a list is."""

    def size(config: AdapterConfig, module: str, sizes: Sizes) -> Expected | None:
        value = config.fields.get(name)
        return exactly(f"the length of {name}", len(value)) if isinstance(value, list) and value else None

    return size


def product(*names: str, times: int = 1, **defaults: int) -> Size:
    """The product of several fields, where all are known."""

    def size(config: AdapterConfig, module: str, sizes: Sizes) -> Expected | None:
        factors = [whole(config.fields.get(name, defaults.get(name))) for name in names]
        known = [factor for factor in factors if factor is not None]
        words = " × ".join([*names, *([str(times)] if times > 1 else [])])
        return exactly(words, prod(known) * times) if len(known) == len(factors) else None

    return size


def flag(name: str, default: bool = False) -> When:
    """Whether a field is set."""
    return lambda config, module: bool(config.fields.get(name, default))


def unless(name: str, default: bool = False) -> When:
    """Whether a field is not set."""
    return lambda config, module: not config.fields.get(name, default)


def choice_of(name: str, default: Any, *values: Any) -> When:
    """Whether a field has one of some values."""
    return lambda config, module: config.fields.get(name, default) in values


def no_choice_of(name: str, *values: Any) -> When:
    """Whether a field has none of some values."""
    return lambda config, module: config.fields.get(name) not in values
