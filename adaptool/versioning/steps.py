"""Whether the version went the way the content did: from where a change began, past other branches, along history."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from adaptool.comparing.level import level_of
from adaptool.comparing.result import Level
from adaptool.versioning.change import Change
from adaptool.versioning.findings import Finding, Unchecked, finding
from adaptool.versioning.reading import Reading
from adaptool.versioning.record import Record
from adaptool.versioning.recording import contents_of_record
from adaptool.versioning.semver import Version


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A manifest the version is compared with, and where it is."""

    label: str
    record: Record
    level: Callable[[], Level | None] = lambda: None
    """What lies between it and here, where the content of both tells more than the manifests; None: it does not."""

    @property
    def version(self) -> Version | None:
        """Its version, where it is one."""
        return self.record.semver

    def differs(self, now: Record) -> bool:
        """Whether its content is another."""
        if self.record.content.digest == now.content.digest and self.record.base == now.base:
            return False
        return (self.level() or level_between_records(self.record, now)) != "none"


def level_between_records(before: Record, after: Record) -> Level:
    """The level, from manifests alone."""
    return level_of(contents_of_record(before), contents_of_record(after), equal=None)[0]


def since(path: str, here: Reading, before: Elsewhere, stale: bool, change: Change) -> Iterator[Finding | Unchecked]:
    """The version against the one a change began at; ``stale``: that one's manifest was not of its content."""
    stated, now, was = here.stated, _version(here), before.version
    if stated is None or now is None or was is None:
        return
    if now < was:
        yield _backwards(path, was, now, before.label)
        return
    if change.level is None:
        if any(found.code == "VER003" for found in here.findings):  # which explains what cannot be told behind it
            return
        if now.rank == was.rank or not was.suffices("major", now):
            yield Unchecked("VER101", change.lacks)
        return
    if now.rank == was.rank:
        if change.level != "none":
            yield _unbumped(path, was, before.label, change, change.level)
        elif stale and before.differs(stated):
            told = (
                f"{was} was recorded for other content in {before.label}, and is recorded anew under the same version"
            )
            yield finding("VER101", path, told, fix=_to(was.bumped("patch")))
    elif not was.suffices(change.level, now):
        asked = was.bumped(change.level)
        why = f": {change.reasons[0]}" if change.reasons else ""
        yield finding(
            "VER102", path, f"{was} → {now} is too small a step for a {change.level} change{why}",
            fix=_to(asked),
        )  # fmt: skip


def beside(path: str, here: Reading, before: Elsewhere | None, there: Elsewhere) -> Iterator[Finding]:
    """The version against that of the branch compared with, which went on since the change began."""
    now, their, was = _version(here), there.version, before.version if before else None
    content = here.content or here.stated
    if content is None or now is None or their is None or (was is not None and their.rank == was.rank):
        return
    if now.rank == their.rank:
        if there.differs(content):
            told = f"{there.label} has a {their} already, with other content"
            yield finding("VER104", path, told, fix=_to(their.bumped("patch")))
    elif now < their and (was is None or now >= was):
        told = f"{now} is below the {their} that {there.label} has by now"
        yield finding("VER103", path, told, fix=_to(their.bumped("patch")))


def merged(path: str, here: Reading, parents: Sequence[Elsewhere], base: Version | None) -> Iterator[Finding]:
    """In a merge: whether a side had the version for another content, which was no version before they parted."""
    now, content = _version(here), here.content or here.stated
    if now is None or content is None or (base is not None and base.rank == now.rank):
        return
    for parent in parents:
        if parent.version is not None and parent.version.rank == now.rank and parent.differs(content):
            told = f"{parent.label}, which was merged here, has a {now} with other content"
            yield finding("VER104", path, told, fix=_to(now.bumped("patch")))
            return


def along(path: str, here: Reading, pasts: Iterator[Elsewhere]) -> Iterator[Finding]:
    """The version against the manifests it had before, the newest first: up to the one this version replaced."""
    stated, now = here.stated, _version(here)
    content = here.content or stated
    if stated is None or content is None or now is None:
        return
    for past in pasts:
        was = past.version
        if was is None:
            continue
        if was.rank == now.rank:
            if past.differs(content):
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


def _version(here: Reading) -> Version | None:
    return here.stated.semver if here.stated is not None else None


def _backwards(path: str, was: Version, now: Version, where: str) -> Finding:
    return finding("VER103", path, f"{was} ({where}) → {now} goes backwards", fix=_to(was.bumped("patch")))


def _unbumped(path: str, was: Version, where: str, change: Change, level: Level) -> Finding:
    why = f": {'; '.join(change.reasons[:2])}" if change.reasons else ""
    unsure = "" if change.certain else " (by the manifests; where every ΔW is the same, fetch the content to show it)"
    told = f"still {was}, as in {where}, but the change asks for {level}{why}{unsure}"
    return finding("VER101", path, told, fix=_to(was.bumped(level)))


def _to(version: Version) -> str:
    return f"adaptool version bump --to {version} {{path}}"
