"""A regular expression as automata of its letters (Glushkov's construction), with the ways it has to go on.

States are the letters and classes of the pattern; an edge from i to j says that j may follow i, and its multiplicity in
how many ways a backtracking matcher gets there: (a*)* goes on from its a to itself through either star.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from re import _parser as sre  # type: ignore[attr-defined]
from typing import Any

import numpy as np
from numpy.typing import NDArray

LONGEST = 64
"""Letters of a name: what repeats more often than that need not be unrolled further."""

MOST_STATES, MOST_EDGES = 2500, 20_000
"""Beyond, a pattern is too large to be counted, and far beyond what selects modules."""

ASCII = 128
UNBOUNDED = int(sre.MAXREPEAT)
IGNORE_CASE = int(re.IGNORECASE)
ONE_LETTER = ("LITERAL", "NOT_LITERAL", "ANY", "IN")

Bools = NDArray[np.bool_]

CATEGORIES: dict[str, Callable[[str], bool]] = {
    "DIGIT": str.isdigit,
    "SPACE": str.isspace,
    "WORD": lambda letter: letter.isalnum() or letter == "_",
}


def parsed(pattern: str) -> Any:
    """The standard library's own tree of a pattern that compiles."""
    with warnings.catch_warnings(action="ignore"):
        return sre.parse(pattern)


def loops_of(items: Iterable[Any]) -> float:
    """How many single letters or classes repeat, one after the other; infinite where anything larger does.

    An option, x?, counts a quarter: it doubles the ways, where a loop multiplies them by a name's length.
    """
    loops = 0.0
    for name, argument in ((str(op), argument) for op, argument in items):
        match name:
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT" if argument[1] > 1:
                single = len(argument[2]) == 1 and str(argument[2][0][0]) in ONE_LETTER
                loops += 1 if single else np.inf
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                loops += 0.25 + loops_of(argument[2])
            case "SUBPATTERN":
                loops += loops_of(argument[3])
            case "BRANCH":
                loops += max(map(loops_of, argument[1]))
            case "LITERAL" | "NOT_LITERAL" | "ANY" | "IN" | "AT":
                pass
            case _:
                return np.inf
    return loops


@dataclass(slots=True)
class Automaton:
    """States are the pattern's letters and classes; an edge from i to j says that j may follow i, in so many ways."""

    accepts: list[Bools] = field(default_factory=list)
    """By state, the ASCII letters it takes."""
    edges: dict[tuple[int, int], float] = field(default_factory=dict)
    first: dict[int, float] = field(default_factory=dict)
    inner: list[Any] = field(default_factory=list)
    """Bodies of look-arounds: matched on their own."""
    too_large: bool = False


Ends = dict[int, float]


@dataclass(slots=True)
class Piece:
    """A part of the pattern: where it begins and ends, and in how many ways it is empty."""

    first: Ends
    last: Ends
    empty: float


class TooLargeError(Exception):
    """More states or edges than are counted."""


def automata(pattern: str) -> Iterator[Automaton]:
    """The pattern's automaton, and those of the look-arounds in it; empty where nothing in it repeats."""
    waiting = [parsed(pattern)]
    folded = bool(waiting[0].state.flags & IGNORE_CASE)
    while waiting:
        automaton = Automaton()
        try:
            automaton.first = _sequence(waiting.pop(), automaton, folded).first
        except (TooLargeError, RecursionError):
            automaton.too_large = True
        waiting += automaton.inner
        yield automaton


def _sequence(items: Iterable[Any], automaton: Automaton, folded: bool) -> Piece:
    whole = Piece({}, {}, 1.0)
    for name, argument in ((str(op), argument) for op, argument in items):
        whole = _joined(whole, _piece(name, argument, automaton, folded), automaton)
    return whole


def _piece(name: str, argument: Any, automaton: Automaton, folded: bool) -> Piece:
    match name:
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            least, most, items = argument
            return _repeated(int(least), int(most), items, automaton, folded)
        case "SUBPATTERN":
            return _sequence(argument[3], automaton, folded or bool(argument[1] & IGNORE_CASE))
        case "ATOMIC_GROUP":
            return _sequence(argument, automaton, folded)
        case "BRANCH":
            return _either([_sequence(branch, automaton, folded) for branch in argument[1]])
        case "GROUPREF_EXISTS":
            return _either([_sequence(branch or [], automaton, folded) for branch in argument[1:]])
        case "ASSERT" | "ASSERT_NOT":
            automaton.inner.append(argument[1])
        case "LITERAL" | "NOT_LITERAL" | "ANY" | "IN":
            return _state(_letters(name, argument, folded), automaton)
    return Piece({}, {}, 1.0)  # a look-around, an anchor, a back-reference: no letter of its own


def _state(letters: Bools, automaton: Automaton) -> Piece:
    if len(automaton.accepts) >= MOST_STATES:
        raise TooLargeError
    automaton.accepts.append(letters)
    return Piece({len(automaton.accepts) - 1: 1.0}, {len(automaton.accepts) - 1: 1.0}, 0.0)


def _letters(name: str, argument: Any, folded: bool) -> Bools:
    """The ASCII letters that a literal or a class takes."""
    taken = np.zeros(ASCII, bool)
    match name:
        case "ANY":
            taken[:] = True
            taken[10] = False
        case "LITERAL" | "NOT_LITERAL":
            taken[[argument] if argument < ASCII else []] = True
        case "RANGE":
            taken[argument[0] : argument[1] + 1] = True
        case "CATEGORY":
            kind = str(argument).removeprefix("CATEGORY_").removeprefix("UNI_").removeprefix("NOT_")
            taken[:] = [CATEGORIES[kind](chr(code)) for code in range(ASCII)]
        case "IN":
            for op, inner in argument:
                taken |= _letters(str(op), inner, False)
    if folded:
        taken |= [bool(taken[ord(chr(code).swapcase())]) for code in range(ASCII)]
    negated = name == "NOT_LITERAL" or (name == "CATEGORY" and "NOT_" in str(argument))
    return ~taken if negated or (name == "IN" and str(argument[0][0]) == "NEGATE") else taken


def _either(pieces: list[Piece]) -> Piece:
    whole = Piece({}, {}, sum(piece.empty for piece in pieces))
    for piece in pieces:
        whole.first |= piece.first
        whole.last |= piece.last
    return whole


def _joined(one: Piece, other: Piece, automaton: Automaton) -> Piece:
    _link(one.last, other.first, automaton)
    first = one.first | {state: ways * one.empty for state, ways in other.first.items() if one.empty}
    last = other.last | {state: ways * other.empty for state, ways in one.last.items() if other.empty}
    return Piece(first, last, min(one.empty * other.empty, 1e3))


def _link(last: Ends, first: Ends, automaton: Automaton) -> None:
    for i, ends in last.items():
        for j, begins in first.items():
            automaton.edges[i, j] = min(automaton.edges.get((i, j), 0.0) + ends * begins, 1e3)
    if len(automaton.edges) > MOST_EDGES:
        raise TooLargeError


def _repeated(least: int, most: int, items: Any, automaton: Automaton, folded: bool) -> Piece:
    """x{2,4} as x·x·(x·(x)?)?, x{2,} as x·x·x*: copies beyond the longest name never come to play."""
    whole = Piece({}, {}, 1.0)
    for _ in range(min(least, LONGEST)):
        whole = _joined(whole, _sequence(items, automaton, folded), automaton)
    if most == UNBOUNDED:
        loop = _sequence(items, automaton, folded)
        _link(loop.last, loop.first, automaton)
        return _joined(whole, Piece(loop.first, loop.last, 1.0), automaton)
    rest = Piece({}, {}, 1.0)
    for _ in range(min(most, LONGEST) - min(least, LONGEST)):
        copy = _joined(_sequence(items, automaton, folded), rest, automaton)
        rest = Piece(copy.first, copy.last, copy.empty + 1.0)
    return _joined(whole, rest, automaton)
