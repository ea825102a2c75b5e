"""An adapter's history from Git: each commit with what it did to version and content, and how far ΔW went.

Oldest first is how it is computed: two adapters lie in scratch at a time, however long the history and large they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from adaptool.adapters.adapter import Adapter, open_adapter
from adaptool.comparing.result import EQUAL
from adaptool.errors import AdaptoolError, NotFetchedError, NotFoundError
from adaptool.git.repository import Repository
from adaptool.versioning.gate.change import Change
from adaptool.versioning.gate.findings import Selection
from adaptool.versioning.gate.judging import Court, gather, judge, merge_of
from adaptool.versioning.gate.tagged import Tags, places_of
from adaptool.versioning.kept.blobs import Blobs
from adaptool.versioning.kept.history import Archive
from adaptool.versioning.kept.pairing import Pair
from adaptool.versioning.kept.sides import Kept, Side, commit_side
from adaptool.versioning.kept.trail import Touch, trail
from adaptool.versioning.lineage import Family
from adaptool.versioning.log.drift import drift
from adaptool.versioning.log.log_result import Drifted, Entry, Log
from adaptool.versioning.record import Record
from adaptool.versioning.semver import level_between, parse_version
from adaptool.versioning.tags import tags_of
from adaptool.versions import MANIFEST_NAME

HELD = 2
"""Adapters that lie in scratch at a time, besides the first."""


@dataclass(frozen=True, slots=True)
class Measured:
    """How far an adapter went by one commit."""

    drift: Drifted
    norm: float | None = None
    previous: float | None = None
    first: float | None = None


def log(
    repository: Repository, folder: str, *, revision: str = "HEAD", limit: int | None = None, drifts: bool = True,
    first_parent: bool = True,
) -> Log:  # fmt: skip
    """The history of the adapter in ``folder`` (from the root of the repository; it may be gone).

    revision: whose history, or a range A..B. limit: entries, the newest. drifts: measure ΔW. first_parent: of the
    branch alone, what it merged in one entry. Raises NotFoundError where there is no such adapter in the history.
    """
    head = revision.partition("..")[2].lstrip(".") or (revision if ".." not in revision else "HEAD")
    commit = repository.commit(head)
    if commit is None and head == "HEAD":
        raise NotFoundError(f"{repository.folder}: no commit yet, so no history", hint="commit the adapter first")
    if commit is None:
        raise NotFetchedError(f"{head!r} names no commit of this repository", hint="git fetch --unshallow, or --tags")
    blobs = Blobs(repository)
    touches = list(trail(repository, folder, revision, blobs, first_parent=first_parent))
    if not touches:
        raise NotFoundError(f"{folder or '.'}: no adapter there in the history of {revision}",
                            hint="list them: adaptool version check -v")  # fmt: skip
    entries = _entries(_Logging(repository, Archive(repository, commit, blobs), touches, drifts), limit)
    notes = ("the history is cut off here (a shallow clone): git fetch --unshallow",) if repository.shallow else ()
    name = entries[0].path.rpartition("/")[2] if entries[0].path != "." else repository.folder.name
    known = (record.name for touch in touches if (record := _stated(touch)) is not None)
    return Log(next(known, name), touches[0].folder or ".", revision, tuple(entries), notes)


@dataclass
class _Logging:
    """What all entries of a log share."""

    repository: Repository
    archive: Archive
    touches: Sequence[Touch]
    drifts: bool
    first: Adapter | None = None
    keeping: ExitStack = field(default_factory=ExitStack)
    """What ``first`` lies in."""
    held: list[tuple[Kept, ExitStack]] = field(default_factory=list)

    def hold(self, kept: Kept) -> None:
        """Keep what an adapter lies in until two others were asked for."""
        if any(kept is one for one, _ in self.held):
            return
        stack = ExitStack()
        stack.enter_context(kept.held())
        self.held.append((kept, stack))
        if len(self.held) > HELD:
            self.held.pop(0)[1].close()

    def release(self) -> None:
        """Let go of all."""
        while self.held:
            self.held.pop()[1].close()

    def tags(self) -> Tags:
        """The adapter's tags, under every folder it had."""
        names: dict[str, str] = {}
        for touch in reversed(self.touches):
            record = _stated(touch)
            names[touch.folder] = record.name if record is not None else touch.folder.rpartition("/")[2]
        owned = tags_of(self.repository, names)
        return Tags(self.archive, owned, places_of(self.archive, owned), None, None)


def _entries(logging: _Logging, limit: int | None) -> list[Entry]:
    """The newest first. Those beyond the limit are not compared, but the first of all is what drift counts from."""
    shown = logging.touches if limit is None else logging.touches[:limit]
    tags = logging.tags()
    found: list[Entry] = []
    with logging.keeping:
        logging.keeping.callback(logging.release)
        if logging.drifts and len(shown) < len(logging.touches):
            _begin(logging, logging.touches[len(shown) :])
        before: Kept | None = None
        for touch in reversed(shown):
            after = touch.after.adapters.get(touch.folder)
            same = before is not None and touch.before is not None and _same(before, touch)
            was = before if same else _before(touch)
            found.append(_entry(logging, touch, Pair(was, after), tags))
            before = after
    return found[::-1]


def _begin(logging: _Logging, older: Sequence[Touch]) -> None:
    """Find the first content there is, among entries that are not shown."""
    for touch in reversed(older):
        kept = touch.after.adapters.get(touch.folder)
        if kept is not None:
            logging.hold(kept)
            _opened(logging, kept)
        if logging.first is not None:
            return


def _before(touch: Touch) -> Kept | None:
    return next(iter(touch.before.adapters.values()), None) if touch.before is not None else None


def _same(kept: Kept, touch: Touch) -> bool:
    """Whether an entry's adapter is what the next one began with: then it is not read again."""
    was = _before(touch)
    return was is not None and was.folder == kept.folder and was.unchanged(kept)


def _entry(logging: _Logging, touch: Touch, pair: Pair, tags: Tags) -> Entry:
    commit = touch.commit
    court = _court(logging, touch, tags)
    for kept in (pair.before, pair.after):
        if kept is not None:
            logging.hold(kept)
    evidence = gather(court, pair)
    found = judge(court, evidence)
    measured = _measured(logging, pair, evidence.change) if logging.drifts else Measured("not asked")
    before, after = parse_version(found.version_before), parse_version(found.version_after)
    return Entry(
        commit=commit.oid, parents=commit.parents, date=commit.date, author=commit.author, email=commit.email,
        subject=commit.subject, tags=_tags_here(tags, commit.oid), path=found.path, moved_from=found.moved_from,
        state=found.state, version_before=found.version_before, version_after=found.version_after,
        change=found.change or ("record only" if found.state == "changed" else found.state), asked=found.level,
        given=None if before is None or after is None else level_between(before, after), reasons=found.reasons,
        verdict=found.verdict, findings=found.findings, unchecked=found.unchecked, drift=measured.drift,
        norm=measured.norm, drift_previous=measured.previous, drift_first=measured.first,
    )  # fmt: skip


def _court(logging: _Logging, touch: Touch, tags: Tags) -> Court:
    """The check of this commit against its first parent, of this adapter alone."""
    repository, commit = logging.repository, touch.commit
    after = touch.after
    kept = after.adapters.get(touch.folder)
    if kept is not None and kept.readable is not None and kept.readable.parents:
        after = commit_side(repository, commit.oid, touch.after.label, logging.archive.blobs)
    parents, parted = merge_of(repository, commit.parents, logging.archive.blobs)
    own = replace(tags, future=_all_tags(tags) - frozenset(_tags_here(tags, commit.oid)))
    archive = logging.archive.of_revision(commit.oid)
    around = [touch.before, after]
    if kept is not None and MANIFEST_NAME not in kept.entries:  # then it counts whether others here have one
        around.append(commit_side(repository, commit.oid, touch.after.label, logging.archive.blobs))
    versioned = any(MANIFEST_NAME in one.entries for side in around if side is not None
                    for one in side.adapters.values())  # fmt: skip
    return Court(
        repository=repository, after=after, before=touch.before or Side(repository, None, "", {}), there=None,
        parents=parents, parted=parted, archive=archive, tags=own,
        family=Family(after), versioned=versioned, unchanged_too=False,
        selection=Selection(), fail_on="error",
    )  # fmt: skip


def _measured(logging: _Logging, pair: Pair, change: Change) -> Measured:
    """The drift; a commit that removed the adapter has none."""
    if pair.after is None:
        return Measured("no updates")
    now = _opened(logging, pair.after)
    if now is None:
        return Measured(_why(pair.after))
    begun = drift(logging.first, now) if logging.first is not None else None
    if begun is None:
        begun = drift(now, now)
        if begun is None:
            return Measured("no updates")
        return Measured("measured", begun.norm_after, change.relative, None)
    came = 0.0 if (change.relative or 1.0) <= EQUAL else change.relative
    if came is None and change.level == "none" and pair.before is not None:
        came = 0.0
    return Measured("measured", begun.norm_after, came, begun.relative)


def _opened(logging: _Logging, kept: Kept) -> Adapter | None:
    """The adapter, None where it cannot be opened; the first that can be is what drift is counted from."""
    try:
        now = _adapter(kept)
        if logging.first is None and drift(now, now) is not None:
            logging.first = open_adapter(logging.keeping.enter_context(replace(kept).opened()))
        return now
    except AdaptoolError:
        return None


def _adapter(kept: Kept) -> Adapter:
    with kept.opened() as folder:  # which is held for as long as it is looked at
        return open_adapter(folder)


def _why(kept: Kept) -> Drifted:
    try:
        _adapter(kept)
    except NotFetchedError:
        return "not fetched"
    except AdaptoolError:
        return "unreadable"
    return "no updates"


def _tags_here(tags: Tags, commit: str) -> tuple[str, ...]:
    found = {tag.name for own in tags.by_adapter.values() for _, tag in own if tag.commit == commit}
    return tuple(sorted(found))


def _all_tags(tags: Tags) -> frozenset[str]:
    return frozenset(tag.name for own in tags.by_adapter.values() for _, tag in own)


def _stated(touch: Touch) -> Record | None:
    kept = touch.after.adapters.get(touch.folder)
    return kept.readable if kept is not None else None
