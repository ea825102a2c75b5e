"""Versions for people: what init and bump did, and all that show knows of one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from adaptool.reports.figures import count, plural, size
from adaptool.reports.layout import BLANK, Line, Span, Style, fact, heading, plain, visible
from adaptool.summary.settings import title

if TYPE_CHECKING:
    from adaptool.git.repository import Commit
    from adaptool.versioning.planned import Change
    from adaptool.versioning.shown import GitFacts, Lineage, Shown

TRUTH: dict[str, tuple[str, Style]] = {
    "agrees": ("", ""), "differs": ("DOES NOT MATCH ITS MANIFEST", "bad"), "none": ("", ""),
    "unchecked": ("NOT CHECKED", "warn"),
}  # fmt: skip

STATES: dict[str, Style] = {"found": "", "changed": "bad", "missing": "bad", "not fetched": "warn", "outside": "dim"}

RELATIONS = {"trained_from": "trained from", "composed_of": "composed of", "merged_into": "merged into",
             "fixed_from": "fixed from"}  # fmt: skip

FEW = 12
"""Files and tags shown without -v."""


def begun(change: Change, *, dry_run: bool) -> str:
    """What init did, in a line."""
    return f"{change.name} {'would be ' if dry_run else ''}{change.after}: {_what(change)}"


def _what(change: Change) -> str:
    base = f" for {change.base}" if change.base else ""
    return f"{title(change.peft_type)}{base}, {plural(change.tensors, 'tensor')}, {plural(change.files, 'file')}"


def moved(change: Change) -> str:
    """What bump did, in a line."""
    name = visible(change.name)
    if change.before == change.after:
        refreshed = "manifest refreshed" if change.written else "nothing to do"
        return f"{name} {change.after} stays ({change.level}): {refreshed}"
    already = "" if change.written else ": bumped already"
    return f"{name} {visible(str(change.before))} → {change.after} ({change.level}){already}"


def shown_report(shown: Shown, width: int, *, verbose: bool = False) -> list[Line]:
    """One adapter's version, in lines of at most ``width`` columns."""
    words, style = TRUTH[shown.truth]
    head = (Span(visible(f"{shown.name} {shown.version}"), "title"), Span(f"  {visible(title(shown.peft_type))}"))
    lines: list[Line] = [(*head, *((Span("  "), Span(words, style)) if words else ())), BLANK]
    for label, value, style in _facts(shown, verbose=verbose):
        lines += fact(label, value, width, style)
    if shown.lineage:
        lines += [BLANK, heading("LINEAGE"), *_tree(shown.lineage, "  ")]
    for label, values in (("METRICS", shown.metrics), ("RECIPE", shown.recipe), ("VOCABULARY", shown.vocabulary)):
        if values and (label != "VOCABULARY" or verbose):
            lines += [BLANK, heading(label)]
            for name, told in values.items():
                lines += fact(visible(name), _text(told), width)
    if shown.git is not None:
        lines += [BLANK, heading("GIT")]
        for label, value, style in _git(shown.git, verbose=verbose):
            lines += fact(label, value, width, style)
    return lines


def _facts(shown: Shown, *, verbose: bool) -> Iterator[tuple[str, str, Style]]:
    if shown.description:
        yield "about", shown.description, ""
    if shown.message:
        yield "brings", shown.message, ""
    base = shown.base
    pinned = base.revision if base.pinned and base.revision else f"digest {base.digest}" if base.digest else ""
    loose = f"not pinned ({base.revision} is no commit)" if base.revision else "not pinned"
    yield "base", f"{base.name or 'not named'}  {pinned or loose}", "" if base.pinned else "warn"
    yield "content", shown.digest, ""
    if verbose:
        yield "config", shown.content.config, ""
        yield "weights", shown.content.weights, ""
    dtypes = ", ".join(shown.dtypes)
    yield "tensors", f"{count(shown.tensors)}, {plural(shown.elements, 'element')}, {dtypes}", ""
    some = shown.files if verbose else shown.files[:FEW]
    for number, file in enumerate(some):
        digest = f"  {file.sha256}" if verbose else ""
        yield "" if number else "files", f"{file.name}  {size(file.size)}{digest}", ""
    if len(some) < len(shown.files):
        yield "", f"and {len(shown.files) - len(some)} more", "dim"
    if shown.license:
        yield "license", shown.license, ""
    yield "manifest", shown.because, TRUTH[shown.truth][1]


def _tree(parents: Iterable[Lineage], indent: str) -> Iterator[Line]:
    known = list(parents)
    for number, parent in enumerate(known):
        last = number == len(known) - 1
        where = _where(parent)
        said = RELATIONS.get(parent.relation, parent.relation)
        named = visible(f"{parent.name} {parent.version}" if parent.version else parent.name)
        state = "" if parent.state == "found" else f"  {parent.state}: {visible(parent.because)}"
        yield (
            Span(f"{indent}{'└─' if last else '├─'} ", "dim"), Span(f"{said} ", "label"), Span(named),
            Span(f"  {visible(where)}" if where else "", "dim"), Span(state, STATES.get(parent.state, "bad")),
        )  # fmt: skip
        yield from _tree(parent.parents, f"{indent}{'   ' if last else '│  '}")


def _where(parent: Lineage) -> str:
    revision = parent.revision or ""
    short = revision[:12] if len(revision) in (40, 64) else revision
    if parent.path is None:
        return short
    return f"{short}:{parent.path}" if short else parent.path or "(the root)"


def _git(facts: GitFacts, *, verbose: bool) -> Iterator[tuple[str, str, Style]]:
    yield "path", facts.path or "(the root)", ""
    if facts.last is None:
        yield "commits", "not committed", "warn"
    else:
        if facts.first is not None and facts.first != facts.last:
            yield "first", _commit(facts.first), ""
        yield "last", _commit(facts.last), ""
        cut = " here: this clone's history is cut off" if facts.shallow else ""
        yield "commits", f"{facts.commits}{cut}", ""
    if facts.uncommitted:
        yield "uncommitted", ", ".join(facts.uncommitted[:FEW]), "warn"
    if facts.tag:
        yield "tag", facts.tag, ""
    others = [tag for tag in facts.tags if tag != facts.tag]
    if others:
        some = others if verbose else others[-FEW:]
        yield "other tags", ", ".join(some) + (f" and {len(others) - len(some)} more" if some != others else ""), ""


def _commit(commit: Commit) -> str:
    return f"{commit.oid[:12]}  {commit.date[:10]}  {commit.author}  {commit.subject}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def shown_text(shown: Shown, width: int, *, verbose: bool = False) -> str:
    """The same as plain text."""
    return plain(shown_report(shown, width, verbose=verbose))
