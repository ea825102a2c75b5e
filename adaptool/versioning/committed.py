"""What Git has of the adapter in a folder: its manifest at HEAD (and of what is being merged), and its last weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adaptool.errors import AdaptoolError
from adaptool.git.repository import Repository, find_repository
from adaptool.versioning.kept.sides import Kept, Side, commit_side
from adaptool.versioning.record import LARGEST, Record, read_record
from adaptool.versioning.reunited import Parted
from adaptool.versions import MANIFEST_NAME


@dataclass(frozen=True)
class Committed:
    """A repository and what is committed in it, read once for all adapters of a command."""

    repository: Repository
    head: Side | None
    """None before the first commit."""
    merging: Side | None
    """The other branch, while a merge is being resolved."""

    def path_of(self, folder: Path) -> str:
        """A folder's path from the root of the repository; "" is the root."""
        inside = folder.resolve().relative_to(self.repository.folder.resolve()).as_posix()
        return "" if inside == "." else inside

    def records(self, folder: Path) -> tuple[tuple[str, Record], ...]:
        """The manifests of the adapter that are committed, each with where: HEAD's first; a broken one is none."""
        sides = (("HEAD", self.head), ("MERGE_HEAD", self.merging))
        found = ((label, _stated(side, self.path_of(folder))) for label, side in sides if side is not None)
        return tuple((label, record) for label, record in found if record is not None)

    def parted(self, folder: Path, ours: Record) -> Parted | None:
        """The manifests of a merge, rebase or cherry-pick that is being resolved; None where the other cannot be read.

        The index has all three until they are added; then MERGE_HEAD has the other one.
        """
        path = self.path_of(folder)
        manifest = f"{path}/{MANIFEST_NAME}" if path else MANIFEST_NAME
        before, theirs = (self._staged(manifest, stage) for stage in (1, 3))
        if theirs is None and self.head is not None and self.merging is not None:
            theirs = _stated(self.merging, path)
            base = self.repository.merge_base("HEAD", "MERGE_HEAD")
            before = None if base is None else _stated(commit_side(self.repository, base, ""), path)
        return None if theirs is None else Parted(ours, theirs, before)

    def _staged(self, path: str, stage: int) -> Record | None:
        blob = self.repository.index(path, stage).get(path)
        try:
            return None if blob is None else read_record(self.repository.read(blob.oid, LARGEST), path)
        except AdaptoolError:
            return None

    @contextmanager
    def recorded(self, folder: Path, record: Record) -> Iterator[Path | None]:
        """A folder with the adapter that ``record`` was written for; None where it is not here, or is another.

        The commit that changed the manifest last is where the two lay together.
        """
        path = self.path_of(folder)
        kept = self._last(path)
        try:
            if kept is None or kept.actual.content != record.content:
                yield None
                return
        except AdaptoolError:
            yield None
            return
        with kept.opened() as opened:
            yield opened

    def _last(self, path: str) -> Kept | None:
        try:
            commit = next(self.repository.log(f"{path}/{MANIFEST_NAME}" if path else MANIFEST_NAME), None)
            return None if commit is None else commit_side(self.repository, commit.oid, "").adapters.get(path)
        except AdaptoolError:
            return None


def _stated(side: Side, path: str) -> Record | None:
    kept = side.adapters.get(path)
    return None if kept is None else kept.readable


class Repositories:
    """The repositories that the folders of a command lie in, each looked at once."""

    def __init__(self) -> None:
        self._known: dict[Path, Committed | None] = {}

    def of(self, folder: Path) -> Committed | None:
        """What is committed where ``folder`` lies; None outside every working tree."""
        real = folder.resolve()
        root = next((place for place in (real, *real.parents) if (place / ".git").exists()), real)
        if root not in self._known:
            self._known[root] = _committed(root)
        return self._known[root]


def _committed(root: Path) -> Committed | None:
    repository = find_repository(root)
    if repository is None or repository.bare:
        return None
    return Committed(repository, _side(repository, "HEAD"), _side(repository, "MERGE_HEAD"))


def _side(repository: Repository, name: str) -> Side | None:
    commit = repository.commit(name)
    return None if commit is None else commit_side(repository, commit, name)
