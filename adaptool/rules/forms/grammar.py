"""The words the table of forms is written in: parts, their axes, and what a config says of their sizes.

    Form(
        slots=(
            always({"lora_A": "r in", "lora_B": "out r"}),
            one_of({"lokr_w2": "b d"}, {"lokr_w2_a": "b r", "lokr_w2_b": "r dk"}),
        ),
        sizes={"r": number("r", 8)},
    )

A part's axes are named; the same name is the same size in all parts of a module, and in the tensors that modules
share. ``1`` is that size itself, ``...`` any further axes. In a part's name ``#`` stands for numbers from 0 on without
a gap, ``@`` for any one word, ``**`` for anything; an axis ``rank#`` is one of each number's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from adaptool.adapters.config import AdapterConfig

if TYPE_CHECKING:
    from adaptool.rules.forms.examination import Examination
    from adaptool.rules.forms.matching import Fault

Sizes = Mapping[str, int]
"""What each named axis of a module turned out to be."""

When = Callable[[AdapterConfig, str], bool]
"""Whether a choice is one, by the config and the module's name."""

TOKENS = {"#": r"(\d{1,6})", "@": r"([^.]+)", "**": r"(.+)"}


@dataclass(frozen=True, slots=True)
class Expected:
    """What a config says of a size: in words, and whether a size is that."""

    text: str
    accepts: Callable[[int], bool]


Size = Callable[[AdapterConfig, str, Sizes], Expected | None]
"""What the config says of an axis of a module; None where it says nothing."""


def _always(config: AdapterConfig, module: str) -> bool:
    return True


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """Parts that are saved together. Like a Form, itself and no other's equal: what is found of it is remembered."""

    parts: Mapping[str, str]
    when: When = _always


Slot = tuple[Choice, ...]
"""Of these choices a module has one."""


@dataclass(frozen=True, slots=True)
class Relation:
    """What must hold between sizes, once all that it is about are known."""

    about: tuple[str, ...]
    holds: Callable[[Sizes], bool]
    text: str
    """With the sizes in braces: "{out} rows, and the shared one has {most_out}"."""


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """What one PEFT type saves."""

    slots: tuple[Slot, ...] = ()
    """In every module."""
    shared: tuple[Slot, ...] = ()
    """Once, for all modules."""
    sizes: Mapping[str, Size] = field(default_factory=dict)
    derived: Mapping[str, Callable[[Sizes], int | None]] = field(default_factory=dict)
    """Sizes that follow from others, in order; None where none does."""
    relations: tuple[Relation, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)
    """What to call an axis in a message, where its name is none."""
    whole: frozenset[str] = frozenset()
    """Parts that hold whole numbers."""
    loose: frozenset[str] = frozenset()
    """Those of them that PEFT saves as float32 on Windows."""
    may_be_zero: frozenset[str] = frozenset()
    """Axes of which nothing may be left, as AdaLoRA's pruning leaves some modules without a rank."""
    check: Callable[[Examination], Iterator[Fault]] | None = None
    """What the other fields cannot say."""

    @property
    def has_modules(self) -> bool:
        """Whether every adapter of this type has modules with parts of their own."""
        return any(all(choice.parts for choice in slot) for slot in self.slots)

    @property
    def shared_axes(self) -> frozenset[str]:
        """Axes of shared tensors that modules may have too: all but those of each number's or word's own."""
        choices = (choice for slot in self.shared for choice in slot)
        axes = (axis for choice in choices for text in choice.parts.values() for axis in text.split())
        return frozenset(axis for axis in axes if not axis.endswith(("#", "@")))

    def owns(self, part: str, *, shared: bool) -> bool:
        """Whether a part is one of this type's."""
        return any(in_slot(slot, part) for slot in (self.shared if shared else self.slots))


def always(parts: Mapping[str, str]) -> Slot:
    """Parts every module has."""
    return (Choice(parts),)


def one_of(*choices: Mapping[str, str] | Choice) -> Slot:
    """Exactly one of several sets of parts."""
    return tuple(choice if isinstance(choice, Choice) else Choice(choice) for choice in choices)


def optional(parts: Mapping[str, str]) -> Slot:
    """Parts that are there together or not at all."""
    return one_of(parts, {})


def only_if(when: When, parts: Mapping[str, str]) -> Slot:
    """Parts that are there exactly where the config says so."""
    return (Choice(parts, when), Choice({}, lambda config, module: not when(config, module)))


def at_least_if(when: When, parts: Mapping[str, str]) -> Slot:
    """Parts that are there where the config says so, and do no harm where it does not."""
    return (Choice(parts), Choice({}, lambda config, module: not when(config, module)))


@lru_cache(maxsize=512)
def names_of(slot: Slot) -> tuple[str, ...]:
    """Every name of a part in a slot."""
    return tuple(dict.fromkeys(name for choice in slot for name in choice.parts))


@lru_cache(maxsize=4096)
def in_slot(slot: Slot, part: str) -> bool:
    """Whether a part is of one of a slot's choices."""
    return any(matched(name, part) for name in names_of(slot))


@lru_cache(maxsize=512)
def _pattern(name: str) -> re.Pattern[str]:
    pieces = re.split(r"(#|@|\*\*)", name)
    return re.compile("".join(TOKENS.get(piece) or re.escape(piece) for piece in pieces))


def matched(name: str, part: str) -> re.Match[str] | None:
    """How a part's name in the table matches a saved part, with what stands for its ``#``, ``@`` or ``**``."""
    return _pattern(name).fullmatch(part)


def filled(name: str, token: str) -> str:
    """A name with its placeholder filled."""
    return re.sub(r"#|@|\*\*", lambda _: token, name)


def expand(choice: Choice, slot: Slot, present: Iterable[str]) -> dict[str, str]:
    """The parts a choice asks for, {name: axes}, its placeholders filled by what is present."""
    parts: dict[str, str] = {}
    here = list(present)
    for name, axes in choice.parts.items():
        if re.search(r"#|@|\*\*", name) is None:
            parts[name] = axes
            continue
        kind = "#" if "#" in name else "**" if "**" in name else "@"
        alike = [name] if kind == "**" else [other for other in names_of(slot) if kind in other]
        found = {match[1] for part in here for other in alike if (match := matched(other, part))}
        tokens = {str(number) for number in range(len(found))} | found if kind == "#" else found
        for token in sorted(tokens) or ["0" if kind == "#" else "…"]:
            parts[filled(name, token)] = axes.replace("#", token).replace("@", token)
    return parts
