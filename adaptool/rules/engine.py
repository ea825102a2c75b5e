"""Running the rules: one adapter, or many on a few threads; every selected rule ends as checked or as not checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal

from adaptool.adapters.base import BaseModel
from adaptool.errors import AdaptoolError
from adaptool.jobs import default_workers, run
from adaptool.rules.configs.lines import line_of
from adaptool.rules.finding import (
    MOST_TENSORS,
    SEVERITIES,
    Finding,
    Problem,
    Severity,
    Suppressed,
    Unchecked,
    Verdict,
    fails,
    fingerprint,
)
from adaptool.rules.locate import Target, find_adapters
from adaptool.rules.rule import Rule
from adaptool.rules.selection import Selection
from adaptool.rules.subject import Subject
from adaptool.rules.waivers import Waivers
from adaptool.summary.summary import Failure
from adaptool.tensors.locate import as_given, locate

Purpose = Literal["validate", "push"]

MOST_PROBLEMS = 100
"""Of one rule, in one adapter."""


@dataclass(frozen=True)
class Options:
    """How to validate."""

    selection: Selection = field(default_factory=Selection)
    fail_on: Severity = "error"
    """The mildest severity that fails."""
    max_rank: int | None = None
    """What the runtimes will be started with."""
    waivers: Waivers = field(default_factory=Waivers)
    purpose: Purpose = "validate"
    workers: int = field(default_factory=default_workers)


@dataclass(frozen=True)
class AdapterReport:
    """One adapter's findings, gravest first."""

    path: str
    """As the user can open it."""
    name: str
    peft_type: str | None
    digest: str | None
    """The content digest, where an allow-list asked for it."""
    verdict: Verdict
    findings: tuple[Finding, ...]
    unchecked: tuple[Unchecked, ...]
    suppressed: tuple[Suppressed, ...]
    checked: tuple[str, ...]
    """The rules that ran to their end."""


@dataclass(frozen=True)
class Validation:
    """What ``adaptool validate`` found, adapter by adapter."""

    results: tuple[AdapterReport, ...]
    failures: tuple[Failure, ...]
    """Paths with no adapter that could be looked at."""
    fail_on: Severity

    @property
    def exit_code(self) -> int:
        """3 where something could not be checked, else 1 where something fails, else 0."""
        if self.failures or any(report.verdict == "unchecked" for report in self.results):
            return 3
        return int(any(report.verdict == "findings" for report in self.results))


def validate(paths: Sequence[str | Path], base: BaseModel | None = None, options: Options | None = None) -> Validation:
    """Validate every adapter at or below each of ``paths``; nothing is executed and nothing written."""
    how = options or Options()
    targets: list[Target] = []
    failures: list[Failure] = []
    for path in paths:
        try:
            targets += [target for target in find_adapters(locate(path)) if target not in targets]
        except AdaptoolError as error:
            failures.append(Failure(str(path), error.message, error.hint))

    def work(numbered: tuple[int, Target]) -> tuple[int, AdapterReport]:
        number, target = numbered
        consumers = how.selection.consumers
        subject = Subject(target.folder, target.weights, base, consumers, how.max_rank)
        return number, validate_subject(subject, how)

    reports = sorted(run(work, enumerate(targets), how.workers), key=lambda numbered: numbered[0])
    return Validation(tuple(report for _, report in reports), tuple(failures), how.fail_on)


def validate_subject(subject: Subject, options: Options) -> AdapterReport:
    """Run the selected rules over one adapter."""
    findings: list[Finding] = []
    unchecked: list[Unchecked] = []
    checked: list[str] = []
    for rule in options.selection.rules:
        if "base" in rule.needs and subject.base is None:
            continue
        outcome = _applied(rule, subject)
        if isinstance(outcome, Unchecked):
            unchecked.append(outcome)
            continue
        checked.append(rule.code)
        findings += _findings(rule, outcome, subject, options.purpose)
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))  # stable: in the order of the rules
    standing, suppressed, digest = options.waivers.apply(subject, findings)
    return AdapterReport(
        as_given(str(subject.folder)), subject.folder.resolve().name, subject.peft_type or None, digest,
        _verdict(standing, unchecked, options.fail_on), tuple(standing), tuple(unchecked), tuple(suppressed),
        tuple(checked),
    )  # fmt: skip


def _applied(rule: Rule, subject: Subject) -> tuple[Problem, ...] | Unchecked:
    """What a rule finds; a rule that fails has not been checked, whether its reason is the adapter or a bug."""
    try:
        if (lack := subject.lacks(rule.needs)) is not None:
            return Unchecked(rule.code, as_given(lack.message))
        return _gravest(rule, rule.check(subject))
    except AdaptoolError as error:
        return Unchecked(rule.code, as_given(error.message))
    except Exception as error:
        return Unchecked(rule.code, f"internal error: {type(error).__name__}: {error}")


def _gravest(rule: Rule, problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """The problems of a rule, the gravest of them where there are hundreds: a file can be made to have thousands."""
    found = tuple(islice(problems, 100 * MOST_PROBLEMS))
    if len(found) <= MOST_PROBLEMS:
        return found
    ranked = sorted(found, key=lambda problem: SEVERITIES.index(problem.severity or rule.severity))
    last = replace(ranked[MOST_PROBLEMS - 1], message=f"{ranked[MOST_PROBLEMS - 1].message} (and more, not listed)")
    return (*ranked[: MOST_PROBLEMS - 1], last)


def _findings(rule: Rule, problems: Sequence[Problem], subject: Subject, purpose: Purpose) -> Iterator[Finding]:
    seen: Counter[str] = Counter()
    for problem in problems:
        severity = problem.severity or rule.severity
        if purpose == "push" and rule.push is not None:
            severity = min(severity, rule.push, key=SEVERITIES.index)
        place = mark = fingerprint(rule.code, problem, subject.folder.name)
        if seen[place]:
            mark = fingerprint(rule.code, problem, subject.folder.name, seen[place])
        seen[place] += 1
        yield Finding(
            rule.code, severity, rule.title, problem.message, problem.fix or rule.fix, problem.file, problem.field,
            problem.tensors[:MOST_TENSORS], line_of(problem, subject), mark,
        )  # fmt: skip


def _verdict(findings: Sequence[Finding], unchecked: Sequence[Unchecked], fail_on: Severity) -> Verdict:
    """An error explains what could not be checked behind it; without one, unchecked stays unchecked."""
    if unchecked and not any(finding.severity == "error" for finding in findings):
        return "unchecked"
    return "findings" if any(fails(finding, fail_on) for finding in findings) else "ok"
