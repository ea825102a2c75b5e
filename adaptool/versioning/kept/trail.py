"""The commits that touched one adapter, the newest first: followed through renamed folders, removals and merges."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from adaptool.git.repository import Commit, Repository
from adaptool.versioning.kept.blobs import Blobs
from adaptool.versioning.kept.history import walk
from adaptool.versioning.kept.pairing import pairs
from adaptool.versioning.kept.sides import Side, commit_side
from adaptool.versioning.recording import shipped
from adaptool.versions import MANIFEST_NAME

MOST_RENAMES = 100


@dataclass(frozen=True, slots=True)
class Touch:
    """One commit and the adapter on both sides of it; a side holds no other adapter."""

    commit: Commit
    before: Side | None
    """None for the first commit of a history."""
    after: Side
    folder: str
    """After it; where it was removed, before."""


def trail(
    repository: Repository, folder: str, revision: str, blobs: Blobs, *, first_parent: bool = True
) -> Iterator[Touch]:  # fmt: skip
    """Every commit that changed a file the manifest lists, or the manifest, of the adapter now in ``folder``."""
    start, since = revision, f"{revision.partition('..')[0]}.." if ".." in revision else ""
    for _ in range(MOST_RENAMES):
        moved: Touch | None = None
        for touch in _in(repository, folder, start, blobs, first_parent):
            moved = _moved(repository, touch)
            yield moved or touch
            if moved is not None:
                break
        if moved is None or moved.before is None:
            return
        folder, start = next(iter(moved.before.adapters)), f"{since}{moved.before.commit}"


def _in(repository: Repository, folder: str, revision: str, blobs: Blobs, first_parent: bool) -> Iterator[Touch]:
    """As long as the folder was called so."""
    for step in walk(repository, revision, [folder] if folder else [], first_parent=first_parent):
        own = {path: change for path, change in step.changes.items() if _is_own(path, folder)}
        if not own:
            continue
        files = {path: blob for path, blob in repository.tree(step.commit.oid, folder).items() if _is_own(path, folder)}
        before = dict(files)
        for path, (old, _) in own.items():
            if old is None:
                before.pop(path, None)
            else:
                before[path] = old
        parent = step.commit.parents[0] if step.commit.parents else None
        yield Touch(
            step.commit, Side(repository, parent, parent[:10], before, blobs) if parent is not None else None,
            Side(repository, step.commit.oid, step.commit.oid[:10], files, blobs), folder,
        )  # fmt: skip


def _is_own(path: str, folder: str) -> bool:
    name = path.removeprefix(f"{folder}/") if folder else path
    if name == path and folder:
        return False
    return name == MANIFEST_NAME or bool(shipped([name]))


def _moved(repository: Repository, touch: Touch) -> Touch | None:
    """The touch with where the adapter came from, if this commit renamed its folder."""
    if touch.before is None or touch.folder in touch.before.adapters or touch.folder not in touch.after.adapters:
        return None
    whole = commit_side(repository, touch.before.commit or "", touch.before.label, touch.after.shared)
    after = commit_side(repository, touch.commit.oid, touch.after.label, touch.after.shared)
    found = next(pair for pair in pairs(whole, after) if pair.after is not None and pair.after.folder == touch.folder)
    if found.before is None:
        return None
    files = {blob.path: blob for blob in found.before.entries.values()}
    return replace(touch, before=replace(whole, files=files))
