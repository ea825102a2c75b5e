"""Whether the parents an adapter names exist: beside it, at the commit or tag it names, or anywhere in the history."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from adaptool.errors import AdaptoolError, GitError
from adaptool.git.repository import Repository
from adaptool.versioning.findings import Finding, Unchecked, finding
from adaptool.versioning.history import Archive
from adaptool.versioning.record import Parent, Record
from adaptool.versioning.sides import Kept, Side

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(?:@[\w./-]+)?")
"""How an adapter of the hub is called, which no repository has to hold."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something a reader should know and nobody must act on."""

    text: str


Said = Finding | Unchecked | Note


@dataclass(frozen=True)
class Ancestry:
    """Where parents are looked for."""

    repository: Repository
    side: Side
    """What is checked."""
    archive: Archive
    shallow: bool
    digests: dict[str, list[str]] = field(default_factory=dict)
    """Names of the adapters of ``side`` → their folders."""

    def findings(self, kept: Kept, stated: Record) -> Iterator[Said]:
        """What is wrong with the parents in a manifest."""
        for parent in stated.parents:
            yield from self._one(kept, parent)

    def _one(self, kept: Kept, parent: Parent) -> Iterator[Said]:
        named = f"{parent.relation}: {parent.name}" + (f" {parent.version}" if parent.version else "")
        if parent.revision is not None:
            yield from self._at_revision(kept, parent, named)
        elif parent.path is not None:
            yield from self._at_path(kept, parent, parent.path.strip("/").removeprefix("./"), named)
        elif folder := self._called(kept, parent):
            yield from self._at_path(kept, parent, folder, named)
        elif parent.digest is not None and self._ever(parent.digest):
            return
        elif HUB_ID.fullmatch(parent.name):
            yield Note(f"{named} lies outside this repository, and was not looked at")
        else:
            yield self._absent(kept, f"{named}: no adapter of this repository is called so, nor has its content")

    def _at_revision(self, kept: Kept, parent: Parent, named: str) -> Iterator[Said]:
        assert parent.revision is not None
        commit = self.repository.commit(parent.revision)
        if commit is None:
            if parent.path is None and HUB_ID.fullmatch(parent.name):
                yield Note(f"{named} lies outside this repository, and was not looked at")
                return
            yield self._absent(kept, f"{named}: there is no commit or tag {parent.revision[:60]!r} here")
            return
        folder = self._called(kept, parent) if parent.path is None else parent.path.strip("/")
        oid = self.archive.at([(commit, folder or "")]).get((commit, folder or ""))
        if oid is None:
            yield self._absent(kept, f"{named}: {parent.revision} has no adapter with a manifest in {folder or '.'}")
            return
        record = self.archive.record(oid)
        if record is not None and parent.digest is not None and record.content.digest != parent.digest:
            yield finding(
                "VER402", kept.path, f"{named}: at {parent.revision} it has the content {record.content.digest[:12]}, "
                f"not {parent.digest[:12]}",
            )  # fmt: skip

    def _at_path(self, kept: Kept, parent: Parent, folder: str, named: str) -> Iterator[Said]:
        there = self.side.adapters.get(folder)
        present = _digest(there) if there is not None else None
        if there is not None and (parent.digest is None or present == parent.digest):
            return
        if parent.digest is not None and self._ever(parent.digest, folder):
            return
        if there is None:
            yield self._absent(kept, f"{named}: there is no adapter in {folder or '.'}")
        elif present is None:
            yield Unchecked("VER402", f"{named}: not fetched: the content of {folder or '.'} is not known")
        elif self.shallow:
            yield Unchecked(
                "VER402", f"{named}: {folder or '.'} went on since, and the history that knows is not fetched"
            )
        else:
            yield finding(
                "VER402", kept.path, f"{named}: neither {folder or '.'} nor its history has the content "
                f"{(parent.digest or '')[:12]}",
            )  # fmt: skip

    def _absent(self, kept: Kept, said: str) -> Finding | Unchecked:
        """What is not here does not exist, unless the history was cut off."""
        if self.shallow:
            return Unchecked("VER401", f"{said} (the history is not fetched)")
        return finding("VER401", kept.path, said)

    def _called(self, kept: Kept, parent: Parent) -> str | None:
        """The adapter of that name, where there is one alone."""
        if not self.digests:
            for folder, other in self.side.adapters.items():
                for name in {_name(other), folder.rpartition("/")[2] or "."}:
                    self.digests.setdefault(name, []).append(folder)
        found = [folder for folder in self.digests.get(parent.name, ()) if folder != kept.folder]
        return found[0] if len(found) == 1 else None

    def _ever(self, digest: str, folder: str | None = None) -> bool:
        """Whether an adapter here (the one in ``folder`` first) has, or ever had, this content."""
        try:
            if folder is not None:
                records = (self.archive.record(past.oid) for past in self.archive.of(folder))
                if any(record is not None and record.content.digest == digest for record in records):
                    return True
            present = (_stated(other) for other in self.side.adapters.values())
            if any(record is not None and record.content.digest == digest for record in present):
                return True
            return digest in self.archive.everywhere
        except GitError:
            return False


def _stated(kept: Kept) -> Record | None:
    try:
        return kept.stated
    except AdaptoolError:
        return None


def _digest(kept: Kept) -> str | None:
    """An adapter's content digest: as its manifest tells it, else as it is."""
    try:
        return (kept.stated or kept.actual).content.digest
    except AdaptoolError:
        return None


def _name(kept: Kept) -> str:
    record = _stated(kept)
    return record.name if record is not None else kept.folder.rpartition("/")[2]
