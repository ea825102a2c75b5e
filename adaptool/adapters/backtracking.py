"""How long a regular expression can take: the ways a backtracking matcher may try before it fails, counted and not run.

PEFT matches the patterns of a config with ``re``, which tries every way of splitting a name among a pattern's repeats
and cannot be stopped: (a+)+$ has 2ⁿ ways on n letters. Running it would tell nothing safely, and ``regex``, which
adaptool matches with, does not stumble where ``re`` does. So the ways are counted: the pattern as an automaton of
positions (Glushkov), edges with their multiplicity, one sparse matrix-vector product per letter, and a beam search for
the worst letters.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from re import _parser as sre  # type: ignore[attr-defined]
from typing import Any

import numpy as np
from numpy.typing import NDArray

LIMIT = 1e7
"""Ways: about half a second of ``re``, for one name of hundreds."""

LONGEST = 64
"""Letters of the worst name searched for: module names are this long."""

MOST_STATES, MOST_EDGES = 3000, 60_000
"""Beyond, a pattern is too large to be counted, and far beyond what selects modules."""

UNBOUNDED = int(sre.MAXREPEAT)
IGNORE_CASE = int(re.IGNORECASE)

BEAM = 12
ASCII = 128
LETTERS = "abcdefghijklmnopqrstuvwxyz_0123456789.ABCDEFGHIJKLMNOPQRSTUVWXYZ-"
"""Of letters that a pattern does not tell apart, the name gets the first of these."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

CATEGORIES: dict[str, Callable[[str], bool]] = {
    "DIGIT": str.isdigit,
    "SPACE": str.isspace,
    "WORD": lambda letter: letter.isalnum() or letter == "_",
}


@dataclass(frozen=True, slots=True)
class Runaway:
    """A name on which a pattern takes absurdly many ways; "" where the pattern is too large to be counted."""

    name: str
    ways: float


@lru_cache(maxsize=512)
def worst_name(pattern: str) -> Runaway | None:
    """The name of ``LONGEST`` letters or fewer on which ``pattern`` runs away; None where it runs away on none.

    ``pattern`` must compile.
    """
    return next((found for automaton in _automata(pattern) if (found := _searched(automaton))), None)


def ways(pattern: str, name: str) -> float:
    """How many ways a backtracking matcher has through ``pattern`` on ``name`` before it fails; infinite: too many."""
    return sum(_counted(automaton, name) for automaton in _automata(pattern))


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


def _automata(pattern: str) -> Iterator[Automaton]:
    """The pattern's automaton, and those of the look-arounds in it; empty where nothing in it repeats."""
    with warnings.catch_warnings(action="ignore"):
        waiting = [sre.parse(pattern)]
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


@dataclass(frozen=True)
class Steps:
    """An automaton as arrays: one letter on is a sum over edges, for several names at once."""

    start: Floats
    source: NDArray[np.intp]
    multiplicity: Floats
    target: NDArray[np.intp]
    """The states that have an edge to them."""
    cuts: NDArray[np.intp]
    """Where in the edges, sorted by target, each target's begin."""

    def on(self, ways: Floats) -> Floats:
        """From (names, states) to the ways of being in each state one letter later, whatever the letter."""
        after = np.zeros_like(ways)
        if len(self.target):
            flowing = ways[:, self.source] * self.multiplicity
            after[:, self.target] = np.add.reduceat(flowing, self.cuts, axis=1)
        return after


def _steps(automaton: Automaton) -> Steps:
    edges = sorted((j, i, ways) for (i, j), ways in automaton.edges.items())
    targets = np.array([j for j, _, _ in edges], np.intp)
    target, cuts = np.unique(targets, return_index=True)
    start = np.zeros(len(automaton.accepts))
    start[list(automaton.first)] = list(automaton.first.values())
    source = np.array([i for _, i, _ in edges], np.intp)
    return Steps(start, source, np.array([ways for _, _, ways in edges]), target, cuts.astype(np.intp))


def _counted(automaton: Automaton, name: str) -> float:
    if automaton.too_large:
        return float("inf")
    if not automaton.accepts:
        return 1.0
    steps, accepts = _steps(automaton), np.array(automaton.accepts)
    ahead, total = steps.start[None, :], 1.0
    for letter in name:
        there = ahead * (accepts[:, ord(letter)] if ord(letter) < ASCII else False)
        total += float(there.sum())
        if not 0 < there.sum() < 1e200:
            break
        ahead = steps.on(there)
    return total


def _searched(automaton: Automaton) -> Runaway | None:
    """A beam search over names: at each letter the ``BEAM`` names with the most ways stay."""
    if automaton.too_large:
        return Runaway("", float("inf"))
    if not automaton.accepts or not automaton.edges:
        return None
    steps, accepts = _steps(automaton), np.array(automaton.accepts)
    kinds = _kinds(accepts)
    takes = accepts[:, kinds].astype(np.float64)
    names, totals, ahead = [""], np.ones(1), steps.start[None, :]
    for _ in range(LONGEST):
        scores = ahead @ takes
        best = np.argsort(scores, axis=None, kind="stable")[::-1][:BEAM]
        rows, columns = np.unravel_index(best[scores.flat[best] > 0], scores.shape)
        if not len(rows):
            return None
        names = [names[row] + chr(kinds[column]) for row, column in zip(rows, columns, strict=True)]
        totals = totals[rows] + scores[rows, columns]
        worst = int(totals.argmax())
        if totals[worst] > LIMIT:
            return Runaway(names[worst], float(totals[worst]))
        ahead = steps.on(ahead[rows] * takes[:, columns].T)
    return None


def _kinds(accepts: Bools) -> list[int]:
    """One letter for each set of letters that no state tells apart."""
    order = [ord(letter) for letter in LETTERS] + list(range(ASCII))
    found: dict[bytes, int] = {}
    for code in order:
        found.setdefault(accepts[:, code].tobytes(), code)
    return [code for column, code in found.items() if any(column)]
