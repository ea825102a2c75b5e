"""Whether two names mean one base model: a hub id, a path of some machine, a copy, another case, another revision."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from adaptool.merging.provenance import QUANTISED_NAME
from adaptool.rules.configs.whereabouts import kind_of, suggestion

BaseChange = Literal["same", "respelt", "revision", "pinned", "unpinned", "other"]
"""respelt: the same model under another name, or one that was not named. revision: one revision, then another.
pinned, unpinned: no revision that stays, then one; and the other way. other: another model."""

COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
"""A revision that pins: no branch or tag is one, for they move."""

SHORT_COMMIT = re.compile(r"[0-9a-f]{7,63}")

MOVING = (None, "", "main", "master", "HEAD")
"""What names no revision, but whatever is newest."""

ALIKE = (("meta-llama-", "llama-"), ("-hf", ""))
"""What copies of a model drop from the beginning or the end of its name."""

LONGEST = 500
"""Characters of a name that are looked at."""


@dataclass(frozen=True, slots=True)
class Name:
    """A base's name taken apart."""

    owner: str
    """The organisation on the hub; "" of a path."""
    model: str
    """Without owner, path, case and the mark of a quantised copy."""
    quantised: str
    """bnb-4bit, awq, …; "" of the model itself."""
    commit: str | None
    """The revision that a path into the hub's cache tells."""


def name_of(text: str) -> Name:
    """Take a name apart: an id of the hub, a page's address, or a path, of which the last part counts."""
    text = text.strip()[:LONGEST]
    known, commit = suggestion(text)
    text = (known or text).rstrip("/\\") or text
    owner, last = "", re.split(r"[/\\]", text)[-1]
    if "/" in text and kind_of(text) == "hub":
        owner = text.partition("/")[0]
    found = QUANTISED_NAME.search(last)
    model = QUANTISED_NAME.sub("", last).lower()
    for long, short in ALIKE:
        model = model.replace(long, short, 1) if model.startswith(long) else model
        model = model.removesuffix(long) if not short else model
    return Name(owner, model, found[1].lower() if found else "", commit or None)


def bases_changed(
    before: tuple[str | None, str | None], after: tuple[str | None, str | None]
) -> tuple[BaseChange, str]:
    """What happened between two (name, revision), and in words how the names differ; "" where they do not."""
    (old, old_revision), (new, new_revision) = before, after
    names = name_of(old or ""), name_of(new or "")
    if (old or "").strip() and (new or "").strip() and names[0].model != names[1].model:
        return "other", "another model"
    words = "; ".join(_differences(old or "", new or "", *names))
    change = _revisions(old_revision or names[0].commit, new_revision or names[1].commit)
    if change == "same" and (old or "") != (new or ""):
        return "respelt", words
    return change, words


def _differences(old: str, new: str, before: Name, after: Name) -> Iterator[str]:
    """How two names of one model differ."""
    if old.strip() == new.strip():
        return
    if not old.strip() or not new.strip():
        yield "the base was not named before" if not old.strip() else "the base is no longer named"
        return
    if before.quantised != after.quantised:
        marks = [f"a {mark} copy" if mark else "the model itself" for mark in (before.quantised, after.quantised)]
        yield f"{marks[0]} before, {marks[1]} now"
    if before.owner and after.owner and before.owner.lower() != after.owner.lower():
        yield f"another organisation's copy of a model of that name ({before.owner}, {after.owner})"
    elif before.quantised == after.quantised:
        if bool(before.owner) == bool(after.owner):
            yield "its name in another spelling"
        else:
            yield "by a path before, by its hub id now" if after.owner else "by its hub id before, by a path now"


def _revisions(old: str | None, new: str | None) -> BaseChange:
    first, second = (None if revision in MOVING else revision for revision in (old, new))
    if first == second or (first and second and _shortened(first, second)):
        return "same"
    if first is None or second is None:
        return "pinned" if first is None else "unpinned"
    fixed = [COMMIT.fullmatch(revision) is not None for revision in (first, second)]
    if fixed[0] != fixed[1]:
        return "pinned" if fixed[1] else "unpinned"
    return "revision"


def _shortened(one: str, other: str) -> bool:
    """Whether one is the beginning of the other, a commit's hash."""
    short, long = sorted((one, other), key=len)
    return SHORT_COMMIT.fullmatch(short) is not None and long.startswith(short)
