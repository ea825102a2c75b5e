"""CFG300–CFG309: the regular expressions in a config. They are judged, and never run unbounded."""

from __future__ import annotations

from collections.abc import Iterator

from adaptool.adapters.automata import LONGEST
from adaptool.adapters.config import CONFIG_NAME
from adaptool.adapters.patterns import MOST_EXPRESSIONS
from adaptool.errors import FormatError
from adaptool.rules.configs.expressions import ALL_LINEAR, ENOUGH, WHOLE, expressions, troubles
from adaptool.rules.configs.scales import ALPHA_PATTERNS, RANK_PATTERNS
from adaptool.rules.draft import fields
from adaptool.rules.finding import Problem
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject
from adaptool.tensors.jsons import shown

MOST = 5
"""Findings of one rule about one config."""

MARKS = set("*+?()[]{}\\^$|")
"""What makes a name an expression."""


@rule("CFG301", "error", "a pattern that is no regular expression", needs=("config",),
      breaks=fields(rank_pattern={"(q_proj": 4}))  # fmt: skip
def no_pattern(subject: Subject) -> Iterator[Problem]:
    """PEFT matches modules' names with it when it loads the adapter, and Python's re raises.

    Keys of rank_pattern and alpha_pattern are expressions too, as are the names in modules_to_save and layers_pattern.

    Fix: correct the expression; a bracket or a backslash meant as itself needs a backslash before it.
    """
    broken = [(e, error) for e in expressions(subject) if (error := e.error()) and error.defect == "not-a-pattern"]
    for expression, error in broken[:MOST]:
        more = f" (and {len(broken) - MOST} more)" if len(broken) > MOST and expression is broken[MOST - 1][0] else ""
        why = error.message.rpartition("regular expression: ")[2]
        yield Problem(
            f"{shown(expression.written)} is no regular expression: {why}{more}", CONFIG_NAME, expression.field
        )


@rule("CFG302", "error", "a pattern that runs away", needs=("config",), breaks=fields(target_modules="(a+)+$"))
def runaway(subject: Subject) -> Iterator[Problem]:
    """Python's re, which PEFT matches with, tries every way of splitting a name among nested or neighbouring repeats.

    Their number grows exponentially, or with a high power of the name's length: whoever loads the adapter waits for
    minutes or for ever. The ways are counted here, not tried: on the adapter's own names, and on the worst name of 64
    letters there is.

    Fix: repeat nothing that repeats inside itself: (a+)+ is a+, and (.*\\.)* is (.*\\.)?; or list the modules' names.
    """
    found = troubles(subject)
    for trouble in found:
        expression = trouble.expression
        more = " (and perhaps more)" if len(found) == ENOUGH and trouble is found[-1] else ""
        if trouble.name:
            message = f"{shown(expression.written)} has {trouble.ways:.0e} ways to fail on {shown(trouble.name)}"
        elif len(expression.written) > 2000 and not set("*+{") & set(expression.written):
            yield Problem(
                f"a pattern of {len(expression.written)} characters, too long to be judged{more}", CONFIG_NAME,
                expression.field, fix="List the modules' names instead.", severity="warning",
            )  # fmt: skip
            continue
        else:
            message = f"{shown(expression.written)} repeats absurdly often, for names of {LONGEST} letters or so"
        yield Problem(message + more, CONFIG_NAME, expression.field)


@rule("CFG303", "error", "absurdly many patterns", needs=("config",), breaks=fields(
    rank_pattern={f"layers.{n}.*": 4 for n in range(MOST_EXPRESSIONS + 1)}))  # fmt: skip
def too_many(subject: Subject) -> Iterator[Problem]:
    """Every module's name is tried on every pattern until one matches: thousands of them make loading take minutes.

    Plain names do not count, of which there may be one for each module.

    Fix: let one expression stand for many modules, or write plain names.
    """
    if len(expressions(subject)) > MOST_EXPRESSIONS:
        field = expressions(subject)[-1].field.partition(".")[0]
        yield Problem(f"there are more than {MOST_EXPRESSIONS} regular expressions in {field}", CONFIG_NAME, field)
        return
    listed = subject.fields.get("layers_pattern")
    if isinstance(listed, list) and len(listed) > MOST_EXPRESSIONS:
        yield Problem(f"layers_pattern has {len(listed)} entries", CONFIG_NAME, "layers_pattern")
    for field in (*RANK_PATTERNS, *ALPHA_PATTERNS):
        if isinstance(subject.fields.get(field), dict):
            try:
                subject.config.patterns(field)
            except FormatError as error:
                yield Problem(error.message.removeprefix(f"{subject.config.where}: "), CONFIG_NAME, field)


@rule("CFG304", "info", "targets left for PEFT to find", needs=("config",), breaks=fields(target_modules="all-linear"))
def unexpanded(subject: Subject) -> Iterator[Problem]:
    """The word all-linear is replaced by names when an adapter is made; in a saved one, PEFT asks the base at loading.

    Other runtimes do not know the word, and a base with other linear layers gets other modules. Without any targets,
    PEFT looks the model's type up in a table of its own.

    Fix: list the modules that have tensors.
    """
    targets = subject.fields.get("target_modules")
    if isinstance(targets, str) and targets.lower() == ALL_LINEAR:
        yield Problem(f"target_modules is {shown(targets)}, which save_pretrained replaces by names", CONFIG_NAME,
                      "target_modules")  # fmt: skip
    elif targets is None and subject.peft_type == "LORA" and not subject.fields.get("target_parameters"):
        yield Problem("target_modules is not set, and save_pretrained writes the names", CONFIG_NAME, "target_modules")


@rule("CFG305", "warning", "an expression in a list of names", needs=("config",),
      breaks=fields(target_modules=["q_proj", "v_proj", ".*k_proj"]))  # fmt: skip
def expression_in_list(subject: Subject) -> Iterator[Problem]:
    """In a list, entries are compared as plain names: an expression there matches nothing, and nobody says so.

    Fix: write target_modules as one text, an expression for whole names: ".*\\\\.(q|k|v)_proj"; or list names.
    """
    for field in (*WHOLE, "target_parameters"):
        listed = subject.fields.get(field)
        odd = [n for n in listed if isinstance(n, str) and MARKS & set(n)] if isinstance(listed, list) else []
        if odd:
            more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
            yield Problem(f"{field} lists {shown(odd[0])}{more}, which no module is called", CONFIG_NAME, field)
