"""Everything that is asked of one adapter in a check, put together into its verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from adaptool.errors import AdaptoolError, GitError, NotFetchedError
from adaptool.git.repository import Repository
from adaptool.rules.finding import SEVERITIES, Severity, Unchecked, fails
from adaptool.versioning.gate.ancestry import Note, Said, parent_findings
from adaptool.versioning.gate.bases import base_findings
from adaptool.versioning.gate.change import NOTHING, Change, change_between
from adaptool.versioning.gate.check_result import AdapterCheck, State, Verdict
from adaptool.versioning.gate.findings import Finding, Selection, finding
from adaptool.versioning.gate.reading import Reading, read
from adaptool.versioning.gate.steps import Compared, Elsewhere, along, beside, merged, returned, since, since_named
from adaptool.versioning.gate.tagged import Tags
from adaptool.versioning.kept.blobs import Blobs
from adaptool.versioning.kept.history import Archive
from adaptool.versioning.kept.pairing import Pair
from adaptool.versioning.kept.sides import Kept, Side, commit_side
from adaptool.versioning.lineage import Family
from adaptool.versioning.record import Record
from adaptool.versions import MANIFEST_NAME

EMPTY = Reading(None, None, (), ())


@dataclass(frozen=True)
class Court:
    """What all adapters of a check are judged by."""

    repository: Repository
    after: Side
    before: Side | None
    """Where the change began; None where there is nothing to compare with."""
    there: Side | None
    """The branch compared with as it is now, where that is another commit."""
    parents: tuple[Side, ...]
    """In a merge its other sides; and ``parted``, where they went apart."""
    parted: Side | None
    archive: Archive
    tags: Tags
    family: Family
    """Where parents are looked for."""
    versioned: bool
    unchanged_too: bool
    """Whether adapters that nobody changed are read as well."""
    selection: Selection
    fail_on: Severity
    sides: dict[str, Side] = field(default_factory=dict)

    def side(self, commit: str) -> Side:
        """A commit of the history."""
        if commit not in self.sides:
            self.sides[commit] = commit_side(self.repository, commit, commit[:10], self.archive.blobs)
        return self.sides[commit]


def merge_of(repository: Repository, parents: Sequence[str], blobs: Blobs) -> tuple[tuple[Side, ...], Side | None]:
    """The sides of a merge, and where they parted; none of what is no merge, or where the history does not reach."""
    if len(parents) < 2:
        return (), None
    base = repository.merge_base(parents[0], parents[1])
    try:
        parted = commit_side(repository, base, base[:10], blobs) if base is not None else None
        return tuple(commit_side(repository, parent, parent[:10], blobs) for parent in parents), parted
    except GitError:
        return (), None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was read of one adapter: all that takes long."""

    pair: Pair
    here: Reading
    was: Reading
    change: Change


def gather(court: Court, pair: Pair) -> Evidence:
    """Read one adapter on both sides and compare them; of one that nobody changed nothing, unless all are asked for."""
    before, after = pair.before, pair.after
    if after is None:
        return Evidence(pair, EMPTY, Reading(pair.kept.readable, None, (), ()), NOTHING)
    if pair.unchanged:
        here = read(after, versioned=court.versioned) if court.unchanged_too else Reading(after.readable, None, (), ())
        return Evidence(pair, here, Reading(here.stated, here.actual, (), ()), NOTHING)
    if before is None:
        return Evidence(pair, read(after, versioned=court.versioned), EMPTY, Change("new", None))
    with before.held(), after.held():
        here, was = (read(kept, versioned=court.versioned) for kept in (after, before))
        return Evidence(pair, here, was, change_between(before, after, (was.content or was.stated, here.content)))


def judge(court: Court, evidence: Evidence) -> AdapterCheck:
    """The verdict on one adapter."""
    pair, here, was = evidence.pair, evidence.here, evidence.was
    said = tuple(_said(court, evidence))
    findings = sorted(
        (one for one in said if isinstance(one, Finding) and one.code in court.selection),
        key=lambda one: (SEVERITIES.index(one.severity), one.code),
    )
    unchecked = tuple(one for one in said if isinstance(one, Unchecked) and one.code in court.selection)
    record = here.stated or was.stated
    changed = evidence.change if pair.after is not None else Change("removed", None)
    compared = pair.before is not None and pair.after is not None and court.before is not None
    return AdapterCheck(
        path=pair.kept.path, moved_from=pair.before.path if pair.moved and pair.before is not None else None,
        name=record.name if record is not None else _folder_name(court, pair.kept), state=_state(court, pair),
        version_before=was.stated.version if was.stated is not None and court.before is not None else None,
        version_after=here.stated.version if here.stated is not None else None,
        change=changed.words if court.before is not None else "", level=changed.level if compared else None,
        reasons=changed.reasons, findings=tuple(findings), unchecked=unchecked,
        notes=tuple(one.text for one in said if isinstance(one, Note)),
        verdict=_verdict(findings, unchecked, court.fail_on),
    )  # fmt: skip


def _said(court: Court, evidence: Evidence) -> Iterator[Said]:
    pair, here, was = evidence.pair, evidence.here, evidence.was
    if pair.after is None:
        yield finding("VER501", pair.kept.path, "the adapter was here before, and is not any more")
        return
    yield from here.findings
    yield from here.unchecked
    if here.stated is None:
        return
    kept = pair.after
    if not pair.unchanged or court.unchanged_too:
        yield from base_findings(kept, here.stated)
        known = was.stated.parents if was.stated is not None and not court.unchanged_too else ()
        yield from parent_findings(court.family, kept, here.stated, known)
    yield from _steps(court, evidence)
    compared = [] if was.version is None else [was.version]
    level = partial(_level, court, kept, here)
    for found in court.tags.findings(kept.folder, kept.path, here, compared, level):
        if isinstance(found, Finding) or not _disagrees(here):
            yield found


def _steps(court: Court, evidence: Evidence) -> Iterator[Finding | Unchecked]:
    """The version against all that it can be compared with, each step told once."""
    seen: set[str] = set()
    for found in _all_steps(court, evidence):
        if isinstance(found, Unchecked) and _disagrees(evidence.here):  # which explains what cannot be told behind it
            continue
        if found.code not in seen:
            seen.add(found.code)
            yield found


def _all_steps(court: Court, evidence: Evidence) -> Iterator[Finding | Unchecked]:
    pair, here, was, kept = evidence.pair, evidence.here, evidence.was, evidence.pair.kept
    before = None
    if was.stated is not None and court.before is not None and not pair.unchanged:
        before = Elsewhere(court.before.label, was.stated)
        named = _named(court, pair.before or kept, kept, here)
        if _disagrees(was):
            yield from since_named(kept.path, here, before, evidence.change, tuple(named))
        elif not (_of_another_base(pair.before, was.stated) and returned(here, was.stated, named)):
            yield from since(kept.path, here, before, evidence.change)
    if court.there is not None and not pair.unchanged:
        there = _elsewhere(court, court.there, kept, here, pair.before)
        if there is not None:
            yield from beside(kept.path, here, before, there)
    base = _elsewhere(court, court.parted, kept, here, None) if court.parted is not None else None
    others = [found for side in court.parents if (found := _elsewhere(court, side, kept, here, None)) is not None]
    yield from merged(kept.path, here, others, base.version if base is not None else None)
    if before is None and (not pair.unchanged or court.unchanged_too):
        yield from along(kept.path, here, _pasts(court, kept, here))


def _disagrees(reading: Reading) -> bool:
    """Whether its manifest is of other content than lies there."""
    return any(found.code == "VER003" for found in reading.findings)


def _of_another_base(kept: Kept | None, stated: Record) -> bool:
    """Whether config and manifest name different bases."""
    return kept is not None and any(found.code == "VER302" for found in base_findings(kept, stated))


def _elsewhere(court: Court, side: Side, kept: Kept, here: Reading, before: Kept | None) -> Elsewhere | None:
    """The adapter's manifest on another side, where it is another than here."""
    other = side.adapters.get(kept.folder) or (side.adapters.get(before.folder) if before is not None else None)
    record = other.readable if other is not None else None
    if other is None or record is None:
        return None
    return Elsewhere(side.label, record, partial(_level_between, other, kept, record, here))


def _pasts(court: Court, kept: Kept, here: Reading) -> Iterator[Elsewhere]:
    try:
        pasts = court.archive.of(kept.folder)
    except GitError:  # a clone without trees
        return
    current = kept.entries.get(MANIFEST_NAME)
    for past in pasts:
        record = court.archive.record(past.oid)
        if record is not None and (current is None or past.oid != current.oid):
            yield Elsewhere(past.commit[:10], record, partial(_level, court, kept, here, past.commit, record))


def _named(court: Court, before: Kept, kept: Kept, here: Reading) -> Iterator[Elsewhere]:
    """The manifests an adapter had up to where a change began, the newest first; each with what it was written for."""
    try:
        pasts = court.archive.of_revision(before.side.commit or "HEAD").of(before.folder)
    except GitError:  # a clone without trees
        return
    for past in pasts:
        record = court.archive.record(past.oid)
        if record is not None:
            level = partial(_level, court, kept, here, past.commit, record, folder=before.folder)
            yield Elsewhere(past.commit[:10], record, level)


def _level(court: Court, kept: Kept, here: Reading, commit: str, record: Record, folder: str | None = None) -> Compared:
    """What lies between the adapter at a commit of the history, where its manifest is of its content, and here."""
    try:
        other = court.side(commit).adapters.get(kept.folder if folder is None else folder)
        if other is None or other.actual.content != record.content:  # a cut-off history tells not who wrote a manifest
            return "not fetched" if court.repository.shallow else None
    except NotFetchedError:
        return "not fetched"
    except AdaptoolError:
        return None
    return _level_between(other, kept, record, here)


def _level_between(other: Kept, kept: Kept, record: Record, here: Reading) -> Compared:
    if other.unchanged(kept):
        return "none"
    change = change_between(other, kept, (record, here.content))
    return "not fetched" if change.lacks else change.level


def _folder_name(court: Court, kept: Kept) -> str:
    return kept.folder.rpartition("/")[2] or court.repository.folder.name.removesuffix(".git")


def _state(court: Court, pair: Pair) -> State:
    if pair.after is None:
        return "removed"
    if court.before is None or (pair.unchanged and court.unchanged_too and not pair.moved):
        return "present"
    if pair.before is None:
        return "added"
    if pair.unchanged:
        return "moved" if pair.moved else "unchanged"
    return "changed"


def _verdict(findings: Sequence[Finding], unchecked: Sequence[Unchecked], fail_on: Severity) -> Verdict:
    if unchecked:
        return "unchecked"
    return "findings" if any(fails(one, fail_on) for one in findings) else "ok"
