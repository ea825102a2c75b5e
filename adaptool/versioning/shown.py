"""All that is known of one adapter's version: its record, where it comes from, and what Git tells of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from adaptool.errors import AdaptoolError, NotFoundError
from adaptool.git.repository import Commit, Repository
from adaptool.versioning.agreement import agreement_of
from adaptool.versioning.kept.sides import Side, commit_side, working_side
from adaptool.versioning.lineage import Ancestor, Family
from adaptool.versioning.places import PlacedAdapter
from adaptool.versioning.record import Base, Content, Parent, Record, record_beside
from adaptool.versioning.recording import contents_of_record
from adaptool.versioning.signing.covered import open_folder
from adaptool.versioning.tags import tags_of
from adaptool.versions import MANIFEST_NAME, FileRecord

Truth = Literal["agrees", "differs", "none", "unchecked"]


@dataclass(frozen=True, slots=True)
class Lineage:
    """One parent, where it was found, and its own parents."""

    relation: str
    name: str
    version: str | None
    digest: str | None
    state: str
    """found, changed, missing, not fetched or outside: see ``lineage.FoundState``."""
    path: str | None
    revision: str | None
    because: str
    parents: tuple[Lineage, ...]


@dataclass(frozen=True, slots=True)
class GitFacts:
    """Who and when, which no manifest holds."""

    path: str
    """From the root of the repository; "" is the root."""
    commit: str | None
    """The commit that was looked at; None for the working tree."""
    first: Commit | None
    """The first commit that touched it; None where it is not committed, or the history is cut off before."""
    last: Commit | None
    commits: int
    shallow: bool
    """Whether the history is cut off, so that ``first`` is not known."""
    uncommitted: tuple[str, ...]
    """Files of it that differ from HEAD or are not in it, by their names."""
    tags: tuple[str, ...]
    """Its version tags, the lowest version first."""
    tag: str | None
    """The tag of this version."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One adapter and its version."""

    given: str
    name: str
    version: str
    peft_type: str
    base: Base
    content: Content
    digest: str
    tensors: int
    elements: int
    dtypes: tuple[str, ...]
    vocabulary: Mapping[str, Any]
    files: tuple[FileRecord, ...]
    lineage: tuple[Lineage, ...]
    recipe: Mapping[str, Any]
    metrics: Mapping[str, float | str]
    description: str | None
    license: str | None
    message: str | None
    adaptool: str
    truth: Truth
    """Whether manifest and content agree; unchecked: the content is not here, or cannot be read."""
    because: str
    """The same in a sentence."""
    git: GitFacts | None


def show(place: PlacedAdapter) -> Shown:
    """Look at one adapter. Raises NotFoundError where it has no manifest, FormatError where that cannot be read."""
    record = record_beside(place.folder)
    if record is None:
        raise NotFoundError(f"{place.given}: no manifest, so no version yet", hint=_begin(place))
    check = agreement_of(open_folder(place.folder)).check
    side = _side(place)
    contents = contents_of_record(record)
    return Shown(
        given=place.given, name=record.name, version=record.version, peft_type=record.peft_type, base=record.base,
        content=record.content, digest=record.content.digest, tensors=len(record.tensors),
        elements=sum(_size(tensor.shape) for tensor in contents.tensors.values()),
        dtypes=tuple(sorted({tensor.dtype for tensor in record.tensors.values()})), vocabulary=record.vocabulary,
        files=record.files, lineage=_lineage(record, side, place.path), recipe=record.recipe, metrics=record.metrics,
        description=record.description, license=record.license, message=record.message, adaptool=record.adaptool,
        truth=check.status, because=check.because, git=None if side is None else _git(place, record, side),
    )  # fmt: skip


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for axis in shape:
        size *= axis
    return size


def _begin(place: PlacedAdapter) -> str:
    return f"adaptool version init {place.folder}" if place.revision is None else "it got one later, or never"


def _side(place: PlacedAdapter) -> Side | None:
    """The tree it lies in; None outside of Git, and where Git refuses."""
    if place.repository is None:
        return None
    try:
        if place.revision is None:
            return working_side(place.repository)
        return None if place.commit is None else commit_side(place.repository, place.commit, place.revision)
    except AdaptoolError:
        return None


def _lineage(record: Record, side: Side | None, path: str) -> tuple[Lineage, ...]:
    if side is None:
        return tuple(_alone(parent) for parent in record.parents)
    return tuple(_followed(ancestor) for ancestor in Family(side).ancestors(record, path))


def _alone(parent: Parent) -> Lineage:
    return Lineage(parent.relation, parent.name, parent.version, parent.digest, "outside", parent.path,
                   parent.revision, "this is not in a Git repository", ())  # fmt: skip


def _followed(ancestor: Ancestor) -> Lineage:
    parent, found = ancestor.parent, ancestor.found
    version = parent.version or (found.record.version if found.record is not None and found.state == "found" else None)
    return Lineage(
        parent.relation, parent.name, version, parent.digest, found.state, found.path,
        found.revision or parent.revision, found.because, tuple(map(_followed, ancestor.ancestors)),
    )  # fmt: skip


def _git(place: PlacedAdapter, record: Record, side: Side) -> GitFacts:
    repository = side.repository
    own = own_files(place, record)
    commits = list(repository.log(*own, revision=side.commit or "HEAD"))
    cut = repository.shallow and bool(commits)
    names = {path: path.rpartition("/")[2] for path in side.adapters} | {place.path: record.name}
    tags = tags_of(repository, names).get(place.path, ())
    return GitFacts(
        path=place.path, commit=side.commit, first=commits[-1] if commits and not cut else None,
        last=commits[0] if commits else None, commits=len(commits), shallow=cut,
        uncommitted=() if side.commit is not None else uncommitted(repository, place.path, own),
        tags=tuple(tag.name for _, tag in tags),
        tag=next((tag.name for version, tag in tags if str(version) == record.version), None),
    )  # fmt: skip


def own_files(place: PlacedAdapter, record: Record) -> list[str]:
    """The files that a record lists and the manifest itself, from the root of the repository."""
    prefix = f"{place.path}/" if place.path else ""
    return [f"{prefix}{name}" for name in (*(file.name for file in record.files), MANIFEST_NAME)]


def uncommitted(repository: Repository, path: str, own: list[str]) -> tuple[str, ...]:
    """Files of the adapter at ``path`` that are not as HEAD has them, by their names from its folder.

    ``own`` are those its record lists: of them also what Git ignores is told.
    """
    prefix = f"{path}/" if path else ""
    head = repository.commit("HEAD")
    tracked = {} if head is None else repository.tree(head, path)
    changed = set() if head is None else set(repository.changed(head))
    apart = {name for name in own if name in changed or name not in tracked}
    return tuple(sorted(name.removeprefix(prefix) for name in apart))
