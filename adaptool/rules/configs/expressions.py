"""The regular expressions in a config, as PEFT puts them together, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from adaptool.adapters.automata import LONGEST
from adaptool.adapters.backtracking import LIMIT, ways, worst_name
from adaptool.adapters.config import matches
from adaptool.adapters.patterns import MOST_EXPRESSIONS, PLAIN
from adaptool.errors import FormatError
from adaptool.rules.configs.scales import ALPHA_PATTERNS, RANK_PATTERNS
from adaptool.rules.subject import Subject
from adaptool.summary.unaccounted import own_modules

WHOLE = ("target_modules", "exclude_modules", "feedforward_modules")
"""Fields of which a text is one expression for a module's whole name; in a list they hold plain names."""

ALL_LINEAR = "all-linear"

ENOUGH = 3
"""Expressions that run away: one is enough to refuse a config."""

LONGEST_NAMES = 2
"""Of the adapter's own modules, which an expression is judged on where they are longer than the worst searched for."""


@dataclass(frozen=True, slots=True)
class Expression:
    """One expression of a config."""

    field: str
    """``target_modules``, or ``rank_pattern.q_proj`` for a key."""
    written: str
    matched: str
    """As PEFT matches it."""

    def error(self) -> FormatError | None:
        """Why it is no pattern, or none that is tried."""
        try:
            matches(self.matched, "", "")
        except FormatError as error:
            return error
        return None


@dataclass(frozen=True, slots=True)
class Trouble:
    """An expression that takes absurdly long, and the name it does so on ("" where it is too large to tell)."""

    expression: Expression
    name: str
    ways: float


def expressions(subject: Subject) -> tuple[Expression, ...]:
    """Every expression of the config that is more than a plain name, the first MOST_EXPRESSIONS + 1 of them."""
    return subject.once("expressions", lambda: tuple(islice(_expressions(subject), MOST_EXPRESSIONS + 1)))


def _expressions(subject: Subject) -> Iterator[Expression]:
    for field in WHOLE:
        text = subject.fields.get(field)
        if isinstance(text, str) and text.lower() != ALL_LINEAR and not PLAIN.fullmatch(text):
            yield Expression(field, text, text)
    for field in (*RANK_PATTERNS, *ALPHA_PATTERNS):
        keys = subject.fields.get(field)
        for key in keys if isinstance(keys, dict) else ():
            if not PLAIN.fullmatch(key):
                yield Expression(f"{field}.{key}", key, rf"(.*\.)?({key})$")
    for field, form in (("layers_pattern", r"(?:^|.*?\.){}\.(\d+)\."), ("modules_to_save", r"(^|.*\.){}($|\..*)")):
        names = subject.fields.get(field)
        for name in names if isinstance(names, list) else [names]:
            if isinstance(name, str) and name and not PLAIN.fullmatch(name):
                yield Expression(field, name, form.replace("{}", name))


def troubles(subject: Subject) -> tuple[Trouble, ...]:
    """The expressions on which ``re``, which PEFT matches with, would take absurdly long; at most ENOUGH."""
    return subject.once("troubles", lambda: tuple(islice(_troubles(subject), ENOUGH)))


def _troubles(subject: Subject) -> Iterator[Trouble]:
    asked = expressions(subject)[:MOST_EXPRESSIONS]
    modules = sorted(_modules(subject), key=len) if asked else []
    names = [name for name in modules[-LONGEST_NAMES:] if len(name) > LONGEST]
    for expression in asked:
        error = expression.error()
        if error is not None:
            if error.defect in ("runaway-pattern", "absurd-pattern"):
                yield Trouble(expression, "", 0.0)
            continue
        if (worst := worst_name(expression.matched)) is not None:
            yield Trouble(expression, worst.name, worst.ways)
            continue
        long = ((name, count) for name in names if (count := ways(expression.matched, name)) > LIMIT)
        yield from (Trouble(expression, name, count) for name, count in islice(long, 1))


def _modules(subject: Subject) -> set[str]:
    if subject.adapter_opened.value is None:
        return set()
    try:
        return own_modules(subject.config, subject.saved)
    except FormatError:
        return set()


def sound(subject: Subject, field: str) -> bool:
    """Whether every expression of ``field`` can be matched: none is broken, runs away, or is one of too many."""
    if len(expressions(subject)) > MOST_EXPRESSIONS or len(troubles(subject)) == ENOUGH:
        return False
    bad = {trouble.expression.field.partition(".")[0] for trouble in troubles(subject)}
    mine = [e for e in expressions(subject) if e.field.partition(".")[0] == field]
    return field not in bad and not any(expression.error() for expression in mine)
