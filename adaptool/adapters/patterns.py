"""The keys of rank_pattern and its like, looked up for thousands of modules: EVA writes one key for each of them.

A key that is a plain name ("layers.0.self_attn.q_proj") is still a regular expression to PEFT, whose dots match any
letter. Such keys are found by hash, with their dots where they are; only real expressions are matched one by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from adaptool.errors import FormatError

PLAIN = re.compile(r"[\w.-]+")
"""Keys in which only the dot is more than itself."""

MOST_EXPRESSIONS = 100
"""Each takes milliseconds to compile; names may be as many as there are modules, expressions stand for many."""

MOST_SHAPES = 4000
"""Places of dots in plain keys: a few dozen in any model."""

Matcher = Callable[[str, str, str], bool]


@dataclass(frozen=True)
class Patterns:
    """The keys of one field, in their order."""

    where: str
    matches: Matcher
    """(pattern, module, where) → whether it matches, within a time limit."""
    plain: dict[str, int]
    """Plain key → its place."""
    dots: Mapping[int, tuple[tuple[int, ...], ...]]
    """Length of a plain key → where its dots may be."""
    expressions: dict[str, int]
    stopped: list[FormatError] = field(default_factory=list)
    """A pattern that ran away once is not tried on another module."""

    def first(self, module: str) -> str | None:
        """The first key that matches ``module`` whole or from a dot on, as PEFT looks it up; None where none does."""
        if not self.plain and not self.expressions:
            return None
        return next(self.all(module), None)

    def all(self, module: str) -> Iterator[str]:
        """Every key that matches ``module``; an expression is tried only when it is its turn."""
        if self.stopped:
            raise self.stopped[0]
        odd = "\n" in module  # an end for "$", and no letter for "."
        found = {} if odd else {key: self.plain[key] for key in self._plain(module)}
        tried = self.expressions | (self.plain if odd else {})
        for key, _ in sorted([*found.items(), *tried.items()], key=lambda item: item[1]):
            if key in found or self._expression(key, module):
                yield key

    def _plain(self, module: str) -> Iterator[str]:
        """The plain keys that are an ending of ``module``, after a dot; a key's dot is any letter."""
        for length, places in self.dots.items():
            if length > len(module) or (length < len(module) and module[-length - 1] != "."):
                continue
            for dots in places:
                letters = list(module[-length:])
                for at in dots:
                    letters[at] = "."
                if (key := "".join(letters)) in self.plain:
                    yield key

    def _expression(self, key: str, module: str) -> bool:
        try:
            return self.matches(rf"(.*\.)?({key})$", module, self.where)
        except FormatError as error:
            if error.defect == "runaway-pattern":
                self.stopped.append(error)
            raise


def patterns_of(keys: Iterable[str], where: str, matches: Matcher) -> Patterns:
    """Sort ``keys`` into names and expressions; FormatError where there are absurdly many."""
    places = {key: place for place, key in reversed(list(enumerate(keys)))}
    plain = {key: place for key, place in places.items() if PLAIN.fullmatch(key)}
    dots: dict[int, set[tuple[int, ...]]] = {}
    for key in plain:
        dots.setdefault(len(key), set()).add(tuple(at for at, letter in enumerate(key) if letter == "."))
    expressions = {key: place for key, place in places.items() if key not in plain}
    if len(expressions) > MOST_EXPRESSIONS or sum(map(len, dots.values())) > MOST_SHAPES:
        raise FormatError(
            f"{where}: {len(places)} patterns, absurdly many", defect="absurd-pattern",
            hint="one expression stands for many modules",
        )  # fmt: skip
    return Patterns(
        where, matches, plain, {length: tuple(sorted(found)) for length, found in dots.items()}, expressions
    )
