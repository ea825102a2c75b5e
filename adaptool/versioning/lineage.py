"""Where an adapter's parents are: by path, by revision and by digest, in the repository that the adapter lies in.

The digest decides. A path only says where to look first, so a parent that was trained on since is found where it was
what it was said to be: in its own history.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from adaptool.errors import AdaptoolError, NotFetchedError
from adaptool.versioning.kept.sides import Kept, Side, commit_side
from adaptool.versioning.record import LARGEST, Parent, Record, read_record
from adaptool.versions import MANIFEST_NAME

FoundState = Literal["found", "changed", "missing", "not fetched", "outside"]
"""found: an adapter of that digest. changed: what lies there is another. missing: nothing does. not fetched: this clone
cannot tell. outside: it is said to be nowhere in this repository, and nothing here is it."""

DEEPEST, MOST = 12, 200
"""Generations that are followed, and ancestors in all."""

MOST_COMMITS = 2000
"""Of a parent's manifest that are looked through for its digest."""


@dataclass(frozen=True, slots=True)
class Found:
    """What became of one parent."""

    state: FoundState
    path: str | None = None
    """Where it is, from the root of the repository."""
    revision: str | None = None
    """The commit it is in; None in the tree that was looked at."""
    record: Record | None = None
    """Its manifest, or what its content makes of one."""
    because: str = ""
    """What is wrong, in words."""


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A parent and its own parents, as far as they can be followed."""

    parent: Parent
    found: Found
    ancestors: tuple[Ancestor, ...]


class Family:
    """The adapters of one tree and its history; what was looked up is kept."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self._sides: dict[str, Side] = {}
        self._found: dict[tuple[Parent, str | None], Found] = {}

    def find(self, parent: Parent, child: str | None = None) -> Found:
        """Look one parent up; ``child`` is the path of the adapter whose it is: that one it is not."""
        if (parent, child) not in self._found:
            try:
                found = self._find(parent, child)
            except NotFetchedError as error:
                found = Found("not fetched", parent.path, parent.revision, because=error.message)
            self._found[parent, child] = found
        return self._found[parent, child]

    def ancestors(self, record: Record, path: str | None = None) -> tuple[Ancestor, ...]:
        """All that can be followed from the adapter at ``path``; who is his own ancestor is not followed again."""
        budget = iter(range(MOST))
        return tuple(self._follow(record, path, frozenset((record.content.digest,)), DEEPEST, budget))

    def _follow(
        self, record: Record, path: str | None, seen: frozenset[str], depth: int, budget: Iterator[int]
    ) -> Iterator[Ancestor]:
        for parent in record.parents:
            if next(budget, None) is None:
                return
            found = self.find(parent, path)
            further = found.record if found.state in ("found", "changed") and parent.relation != "merged_into" else None
            above: tuple[Ancestor, ...] = ()
            if further is not None and depth and (digest := further.content.digest) not in seen:
                above = tuple(self._follow(further, found.path, seen | {digest}, depth - 1, budget))
            yield Ancestor(parent, found, above)

    def _find(self, parent: Parent, child: str | None) -> Found:
        if parent.revision is not None:
            return self._at_revision(parent, parent.revision, child)
        if parent.path is not None:
            return self._at_path(parent, parent.path, child)
        return self._anywhere(parent, child)

    def _at_revision(self, parent: Parent, revision: str, child: str | None) -> Found:
        repository = self.side.repository
        commit = repository.commit(revision)
        if commit is None:
            if (elsewhere := self._after_a_rewrite(parent, child)) is not None:
                return elsewhere
            said = f"no revision {revision!r}"
            if repository.shallow:
                return Found("not fetched", parent.path, revision, because=f"{said} in this clone, which is cut off")
            return Found("missing", parent.path, revision, because=f"there is {said}")
        if commit not in self._sides:
            self._sides[commit] = commit_side(repository, commit, revision)
        side = self._sides[commit]
        if parent.path is None:
            known = stated_records(side)
            path = next((path for path, record in known.items() if _is(parent, record)), None)
            if path is None:
                return Found("missing", None, commit, because=f"no adapter of that digest at {revision}")
            return Found("found", path, commit, known[path])
        kept = side.adapters.get(parent.path)
        if kept is None:
            return Found("missing", parent.path, commit, because=f"no adapter {_shown(parent.path)} at {revision}")
        return _judged(parent, kept, commit)

    def _after_a_rewrite(self, parent: Parent, child: str | None) -> Found | None:
        """The very content, where the commit that held it was squashed or rebased away."""
        earlier = None if parent.path is None else self._in_history(parent, parent.path)
        return earlier or self._by_digest(parent, child)

    def _at_path(self, parent: Parent, path: str, child: str | None) -> Found:
        kept = self.side.adapters.get(path)
        here = None if kept is None else _judged(parent, kept, None)
        if here is not None and here.state != "changed":
            return here
        earlier = self._in_history(parent, path)
        if earlier is not None:
            return earlier
        if here is None and (elsewhere := self._by_digest(parent, child)) is not None:
            return elsewhere
        if self.side.repository.shallow:
            return Found("not fetched", path, because="not in this clone, whose history is cut off")
        return here or Found("missing", path, because=f"there is no adapter {_shown(path)}")

    def _anywhere(self, parent: Parent, child: str | None) -> Found:
        found = self._by_digest(parent, child)
        if found is not None:
            return found
        for path, record in self._records.items():
            if record.name == parent.name and (earlier := self._in_history(parent, path)) is not None:
                return earlier
        return Found("outside", because="not in this repository, as far as its manifests tell")

    def _by_digest(self, parent: Parent, child: str | None) -> Found | None:
        if parent.digest is None:
            return None
        known = [path for path, record in self._records.items() if _is(parent, record) and path != child]
        known.sort(key=lambda path: self._records[path].name != parent.name)
        return Found("found", known[0], None, self._records[known[0]]) if known else None

    @cached_property
    def _records(self) -> Mapping[str, Record]:
        return stated_records(self.side)

    def _in_history(self, parent: Parent, path: str) -> Found | None:
        """The newest commit whose manifest at ``path`` is of the parent's digest."""
        repository = self.side.repository
        head = self.side.commit or repository.commit("HEAD")
        if parent.digest is None or head is None or not _is_inside(path):
            return None
        from adaptool.versioning.kept.history import walk

        name = f"{path}/{MANIFEST_NAME}" if path else MANIFEST_NAME
        with repository.reader() as reader:
            for step in walk(repository, head, [name], first_parent=False, limit=MOST_COMMITS):
                blob = step.changes.get(name, (None, None))[1]
                size = None if blob is None else reader.size(blob.oid)
                if blob is None or size is None or size > LARGEST:
                    continue
                data = reader.read(blob.oid, LARGEST)
                record = _record(data, name) if parent.digest.encode("ascii") in data else None
                if record is not None and _is(parent, record):
                    return Found("found", path, step.commit.oid, record)
        return None


def stated_records(side: Side) -> Mapping[str, Record]:
    """Every manifest of a side that can be read."""
    return {path: kept.readable for path, kept in side.adapters.items() if kept.readable is not None}


def _record(data: bytes, where: str) -> Record | None:
    try:
        return read_record(data, where)
    except AdaptoolError:
        return None


def _is(parent: Parent, record: Record) -> bool:
    return parent.digest == record.content.digest


def _judged(parent: Parent, kept: Kept, commit: str | None) -> Found:
    """What lies where the parent is said to be; without a manifest its content is read."""
    record = kept.readable
    try:
        if record is None or (parent.digest is not None and not _is(parent, record)):
            record = kept.actual
    except NotFetchedError as error:
        if record is None:
            return Found("not fetched", kept.folder, commit, because=error.message)
    except AdaptoolError as error:
        return Found("changed", kept.folder, commit, record, f"what lies there cannot be read: {error.message}")
    assert record is not None
    if parent.digest is None or _is(parent, record):
        return Found("found", kept.folder, commit, record)
    return Found("changed", kept.folder, commit, record, "what lies there has another digest")


def _is_inside(path: str) -> bool:
    """Whether a tree can have that path; git refuses to look for others."""
    return path == "" or ("\0" not in path and {"", ".", ".."}.isdisjoint(path.split("/")))


def _shown(path: str) -> str:
    return path or "in the root"
