"""How long a regular expression can take: the ways a backtracking matcher may try before it fails, counted and not run.

PEFT matches the patterns of a config with ``re``, which tries every way of splitting a name among a pattern's repeats
and cannot be stopped: (a+)+$ has 2ⁿ ways on n letters. Running it would tell nothing safely, and ``regex``, which
adaptool matches with, does not stumble where ``re`` does. So the ways are counted: the pattern as an automaton of
positions (Glushkov), edges with their multiplicity, one sparse matrix-vector product per letter, and a beam search for
the worst letters.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from adaptool.adapters.automata import ASCII, LONGEST, Automaton, Bools, automata, loops_of, parsed

LIMIT = 1e7
"""Ways: about half a second of ``re``, for one name of hundreds."""

HARMLESS_LOOPS = 3.75
"""Three letters or classes that repeat one after the other, and three options: 64³/6 · 2³ ways at most."""

LONGEST_NAME = 1000
"""Letters of a given name that are counted."""

BEAM = 12
LETTERS = "abcdefghijklmnopqrstuvwxyz_0123456789.ABCDEFGHIJKLMNOPQRSTUVWXYZ-"
"""Of letters that a pattern does not tell apart, the name gets the first of these."""

Floats = NDArray[np.float64]


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
    if loops_of(parsed(pattern)) <= HARMLESS_LOOPS:
        return None
    return next((found for automaton in automata(pattern) if (found := _searched(automaton))), None)


def ways(pattern: str, name: str) -> float:
    """How many ways a backtracking matcher has through ``pattern`` on ``name`` before it fails; infinite: too many."""
    return sum(_counted(automaton, name) for automaton in automata(pattern))


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
    for letter in name[:LONGEST_NAME]:
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
