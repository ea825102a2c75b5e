"""The next version of an adapter: its content read again, and the version moved as far as the change asks.

Without a level the change decides, counted from the manifest that is committed: however often it is asked for, one
change is one step. Below 1.0.0 the levels are the same: what the version tells is what changed, and a rule that holds
from some number on would have to be told to every reader.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adaptool.adapters.adapter import open_adapter
from adaptool.comparing.adapters import compare_adapters
from adaptool.comparing.level import level_of
from adaptool.comparing.result import Level
from adaptool.errors import AdaptoolError, FormatError, NotFoundError, UsageError
from adaptool.versioning.beginning import Said, unpinned, with_said
from adaptool.versioning.committed import Committed
from adaptool.versioning.naming import require_name
from adaptool.versioning.planned import Planned, planned
from adaptool.versioning.record import Record, record_beside
from adaptool.versioning.recording import contents_of_record, record_of
from adaptool.versioning.reunited import reunited
from adaptool.versioning.semver import LEVELS, Version, parse_version
from adaptool.versions import MANIFEST_NAME


@dataclass(frozen=True, slots=True)
class Wanted:
    """How the version is to move; without any of it, as far as the change asks."""

    level: Level | None = None
    pre: str = ""
    to: Version | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of an adapter since one of its manifests."""

    since: str
    version: Version
    level: Level
    reasons: tuple[str, ...]


def bump(folder: Path, wanted: Wanted, said: Said, committed: Committed | None) -> Planned:
    """Plan the next version of the adapter in ``folder``.

    Raises NotFoundError where it has no manifest, UsageError where the version would go backwards.
    """
    known = () if committed is None else committed.records(folder)
    disk, told = _beside(folder, known, committed)
    record = with_said(record_of(folder, disk), said)
    if said.name is not None:
        record = replace(record, name=require_name(said.name))
    earlier = known or (("the manifest", disk),)
    judged = [_judged(label, old, record, folder, committed, wanted) for label, old in earlier]
    now = disk.semver or max((one.version for one in judged), default=None)
    version = _next(judged, now, wanted, folder)
    record = replace(record, version=str(version), message=said.message or _message(disk, version))
    notes = (*told, *_notes(record, disk, judged, said))
    first = judged[0]
    return planned(
        folder, record, disk, before=earlier[0][1].version, level=first.level, reasons=first.reasons,
        since=first.since, notes=notes,
    )  # fmt: skip


def is_versioned(folder: Path, committed: Committed | None) -> bool:
    """Whether there is a manifest, good or bad, in the folder or at HEAD."""
    return (folder / MANIFEST_NAME).exists() or (committed is not None and bool(committed.records(folder)))


def _beside(
    folder: Path, known: Sequence[tuple[str, Record]], committed: Committed | None
) -> tuple[Record, tuple[str, ...]]:
    """The manifest in the folder; where a merge left its marks in it, or somebody deleted it, what is committed."""
    try:
        disk = record_beside(folder)
    except FormatError as error:
        if error.defect != "conflict" or not known or committed is None:
            raise
        parted = committed.parted(folder, known[0][1])
        if parted is None:
            return known[0][1], ()
        return reunited(parted, record_of(folder, parted.ours).content)
    if disk is None and known:
        return known[0][1], ()
    if disk is None:
        raise NotFoundError(f"{folder}: no manifest, so no version yet", hint=f"adaptool version init {folder}")
    return disk, ()


def _judged(
    label: str, old: Record, new: Record, folder: Path, committed: Committed | None, wanted: Wanted
) -> Judged:  # fmt: skip
    version = old.semver
    if version is None:
        if wanted.to is None:
            raise UsageError(
                f"{folder}: the version of {label}, {old.version[:60]!r}, is not a semantic one",
                hint="say which: --to 1.0.0",
            )
        version = Version(0, 0, 0, ("0",))
    before, after = contents_of_record(old), contents_of_record(new)
    if before == after:
        return Judged(label, version, "none", ())
    level, reasons = level_of(before, after, equal=None)
    if level == "patch" and committed is not None:
        level, reasons = _looked_at(old, folder, committed) or (level, reasons)
    return Judged(label, version, level, reasons)


def _looked_at(old: Record, folder: Path, committed: Committed) -> tuple[Level, tuple[str, ...]] | None:
    """What the weights themselves say, where those before are at hand: digests cannot tell that ΔW is the same."""
    with committed.recorded(folder, old) as before:
        if before is None:
            return None
        try:
            comparison = compare_adapters(open_adapter(before), open_adapter(folder))
        except AdaptoolError:
            return None
    if comparison.level == "none":
        return "none", (f"{comparison.verdict}: {comparison.because}",)
    return ("patch", comparison.reasons) if comparison.level == "patch" else None


def _next(judged: Sequence[Judged], now: Version | None, wanted: Wanted, folder: Path) -> Version:
    """The version that is wanted, above all those committed; ``now`` is the one in the folder."""
    highest = max(one.version for one in judged)
    start = max(highest, now or highest)
    if wanted.to is not None:
        after = wanted.to
    elif wanted.level is not None:
        after = start.bumped(wanted.level, wanted.pre)
    elif wanted.pre:
        level = max((one.level for one in judged), key=LEVELS.index)
        announced = start.pre[:1] == (wanted.pre,) and all(one.version.suffices(one.level, start) for one in judged)
        after = start if announced and start > highest else highest.bumped(level, wanted.pre)
    else:
        after = start
        for one in judged:
            if not one.version.suffices(one.level, after):
                after = max(after, one.version.bumped(one.level))
    if after < highest:
        raise UsageError(f"{folder}: {after} comes before {highest}", hint="versions do not go backwards")
    return after


def _message(disk: Record, version: Version) -> str | None:
    """A message is of its version alone."""
    return disk.message if parse_version(disk.version) == version else None


def _notes(record: Record, disk: Record, judged: Sequence[Judged], said: Said) -> Iterator[str]:
    for one in judged:
        if not one.version.suffices(one.level, record.semver or one.version):
            yield (
                f"{record.name}: since {one.since} ({one.version}) the change asks for {one.level}:"
                f" {', '.join(one.reasons)}; {one.version.bumped(one.level)} would say so"
            )
    stale = disk.metrics.keys() - said.metrics.keys()
    if stale and record.content != disk.content and any(one.level != "none" for one in judged):
        yield (
            f"{record.name}: metrics of {disk.version} are kept ({', '.join(sorted(stale))}):"
            " measure again, and say them with --metric"
        )
    if not record.base.pinned:
        yield unpinned(record)
