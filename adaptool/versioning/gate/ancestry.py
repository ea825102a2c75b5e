"""Whether the parents an adapter names exist, as findings: where they are looked for is ``lineage``'s."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from adaptool.rules.finding import Unchecked
from adaptool.versioning.gate.findings import Finding, finding
from adaptool.versioning.kept.sides import Kept
from adaptool.versioning.lineage import Family
from adaptool.versioning.record import Parent, Record

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(?:@[\w./-]+)?")
"""How an adapter of the hub is called, which no repository has to hold."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something a reader should know and nobody must act on."""

    text: str


Said = Finding | Unchecked | Note


def parent_findings(family: Family, kept: Kept, stated: Record, known: Sequence[Parent] = ()) -> Iterator[Said]:
    """What is wrong with the parents in a manifest; ``known``: those it named before, which are no part of a change."""
    for parent in stated.parents:
        named = f"{parent.relation} {parent.name}" + (f" {parent.version}" if parent.version else "")
        found = family.find(parent, kept.folder)
        match found.state:
            case "found":
                continue
            case "changed":
                yield finding("VER402", kept.path, f"{named}: {found.because}")
            case "not fetched" if parent in known:
                yield Note(f"{named} was not looked up, as the change did not touch it: {found.because}")
            case "not fetched":
                yield Unchecked("VER401", f"{named}: not fetched: {found.because}")
            case _ if _is_outside(parent):
                yield Note(f"{named} lies outside this repository, and was not looked at")
            case _:
                yield finding("VER401", kept.path, f"{named}: {found.because}")


def _is_outside(parent: Parent) -> bool:
    """Whether it is said to be on the hub and not here."""
    return parent.path is None and HUB_ID.fullmatch(parent.name) is not None
