"""Whether the version went the way the content did: from where a change began, past other branches, along history."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from adaptool.comparing.level import level_of
from adaptool.comparing.result import Level
from adaptool.rules.finding import Unchecked
from adaptool.versioning.gate.change import Change
from adaptool.versioning.gate.findings import Finding, finding
from adaptool.versioning.gate.reading import Reading
from adaptool.versioning.record import Record
from adaptool.versioning.recording import contents_of_record
from adaptool.versioning.semver import Version

Compared = Level | Literal["not fetched"] | None
"""What lies between two contents, by their weights; None where those tell no more than two manifests."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A manifest the version is compared with, and where it is."""

    label: str
    record: Record
    level: Callable[[], Compared] = lambda: None
    """What lies between it and here."""

    @property
    def version(self) -> Version | None:
        """Its version, where it is one."""
        return self.record.semver

    def between(self, now: Record) -> Level | None:
        """What lies between its content and another; None where only weights that are not fetched could tell."""
        if self.record.content.digest == now.content.digest and self.record.base == now.base:
            return "none"
        found = self.level()
        if found is not None and found != "not fetched":
            return found
        level = level_between_records(self.record, now)
        return None if found is not None and _needs_weights(level, self.record, now) else level


def level_between_records(before: Record, after: Record) -> Level:
    """The level, from manifests alone."""
    return level_of(contents_of_record(before), contents_of_record(after), equal=None)[0]


def _needs_weights(level: Level | None, before: Record, now: Record) -> bool:
    """Whether manifests leave it open: other tensors may be the same updates, factorised or saved in another way."""
    return level == "patch" and before.tensors != now.tensors


def lacking(code: str, version: Version, where: str, why: str = "") -> Unchecked:
    """That one version has two contents, of which only the weights could tell whether they are the same updates."""
    told = f"not fetched: {version} has other weights in {where}, and only they can tell whether every ΔW is the same"
    return Unchecked(code, f"{told} ({why})" if why else told)


def since(path: str, here: Reading, before: Elsewhere, change: Change) -> Iterator[Finding | Unchecked]:
    """The version against the one a change began at, whose manifest was of its content."""
    stated, now, was = here.stated, here.version, before.version
    if stated is None or now is None or was is None:
        return
    if now < was:
        yield _backwards(path, was, now, before.label)
    elif change.level is None:
        if now.rank == was.rank or not was.suffices("major", now):
            yield Unchecked("VER101", change.lacks)
    elif now.rank == was.rank:
        if change.lacks and _needs_weights(change.level, before.record, here.content or stated):
            yield lacking("VER101", was, before.label, change.lacks)
        elif change.level != "none":
            yield _unbumped(path, was, before.label, change, change.level)
    elif not was.suffices(change.level, now):
        asked = was.bumped(change.level)
        why = f": {change.reasons[0]}" if change.reasons else ""
        yield finding(
            "VER102", path, f"{was} → {now} is too small a step for a {change.level} change{why}",
            fix=_to(asked),
        )  # fmt: skip


def since_named(
    path: str, here: Reading, before: Elsewhere, change: Change, named: Sequence[Elsewhere]
) -> Iterator[Finding | Unchecked]:
    """The version where a change began beside content that was not its version's: what counts is what that named.

    ``named``: the manifests up to there, the newest first, each with the content it was written for.
    """
    content, now, was = here.content, here.version, before.version
    if content is None or now is None or was is None or any(found.code == "VER003" for found in here.findings):
        yield from since(path, here, before, change)
        return
    if now < was:
        yield _backwards(path, was, now, before.label)
        return
    known = [one for one in named if one.version is not None and one.version.rank == was.rank] or [before]
    if now.rank == was.rank:
        levels = {one.between(content) for one in known}
        if "none" in levels:
            return
        if None in levels:
            yield lacking("VER101", was, before.label)
            return
        told = f"{was} was recorded for other content in {before.label}, and is recorded anew under the same version"
        yield finding("VER101", path, told, fix=_to(was.bumped("patch")))
        return
    level = known[0].between(content)
    if level is not None and not was.suffices(level, now):
        told = f"{was} → {now} is too small a step for a {level} change from what {was} was recorded for"
        yield finding("VER102", path, told, fix=_to(was.bumped(level)))


def returned(here: Reading, before: Record, named: Iterable[Elsewhere]) -> bool:
    """Whether a version is of what it was of before, in one of the manifests up to there."""
    content, now, was = here.content, here.version, before.semver
    if content is None or now is None or was is None or now.rank != was.rank:
        return False
    same = (one for one in named if one.version is not None and one.version.rank == was.rank)
    return any(one.between(content) == "none" for one in same)


def beside(path: str, here: Reading, before: Elsewhere | None, there: Elsewhere) -> Iterator[Finding | Unchecked]:
    """The version against that of the branch compared with, which went on since the change began."""
    now, their, was = here.version, there.version, before.version if before else None
    content = here.content or here.stated
    if content is None or now is None or their is None or (was is not None and their.rank == was.rank):
        return
    if now.rank == their.rank:
        level = there.between(content)
        if level is None:
            yield lacking("VER104", their, there.label)
        elif level != "none":
            told = f"{there.label} has a {their} already, with other content"
            yield finding("VER104", path, told, fix=_to(their.bumped("patch")))
    elif now < their and (was is None or now >= was):
        told = f"{now} is below the {their} that {there.label} has by now"
        yield finding("VER103", path, told, fix=_to(their.bumped("patch")))


def merged(
    path: str, here: Reading, parents: Sequence[Elsewhere], base: Version | None
) -> Iterator[Finding | Unchecked]:
    """In a merge: whether a side had the version for another content, which was no version before they parted."""
    now, content = here.version, here.content or here.stated
    if now is None or content is None or (base is not None and base.rank == now.rank):
        return
    for parent in parents:
        if parent.version is None or parent.version.rank != now.rank:
            continue
        level = parent.between(content)
        if level is None:
            yield lacking("VER104", now, parent.label)
        elif level != "none":
            told = f"{parent.label}, which was merged here, has a {now} with other content"
            yield finding("VER104", path, told, fix=_to(now.bumped("patch")))
            return


def along(path: str, here: Reading, pasts: Iterator[Elsewhere]) -> Iterator[Finding | Unchecked]:
    """The version against the manifests it had before, the newest first: up to the one this version replaced."""
    stated, now = here.stated, here.version
    content = here.content or stated
    if stated is None or content is None or now is None:
        return
    for past in pasts:
        was = past.version
        if was is None:
            continue
        if was.rank == now.rank:
            between = past.between(content)
            if between is None:
                yield lacking("VER101", now, past.label)
                return
            if between != "none":
                told = f"{now} was another content in {past.label}"
                yield finding("VER101", path, told, fix=_to(now.bumped("patch")))
                return
            continue
        if now < was:
            yield _backwards(path, was, now, past.label)
        else:
            level = level_between_records(past.record, content)
            if not was.suffices(level, now):
                asked = was.bumped(level)
                yield finding(
                    "VER102", path, f"{was} ({past.label}) → {now} is too small a step for a {level} change",
                    fix=_to(asked),
                )  # fmt: skip
        return


def _backwards(path: str, was: Version, now: Version, where: str) -> Finding:
    return finding("VER103", path, f"{was} ({where}) → {now} goes backwards", fix=_to(was.bumped("patch")))


def _unbumped(path: str, was: Version, where: str, change: Change, level: Level) -> Finding:
    why = f": {'; '.join(change.reasons[:2])}" if change.reasons else ""
    told = f"still {was}, as in {where}, but the change asks for {level}{why}"
    return finding("VER101", path, told, fix=_to(was.bumped(level)))


def _to(version: Version) -> str:
    return f"adaptool version bump --to {version} {{path}}"
