"""The two sides of a check: a commit's tree or the working tree, and the adapters each keeps, opened only when asked.

What Git already knows is taken from it (which files there are, which are the same), so that a file nobody changed is
never opened.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from adaptool.errors import AdaptoolError, FormatError, NotFetchedError
from adaptool.git.lfs import LfsStore, not_fetched
from adaptool.git.repository import Blob, Repository
from adaptool.git.trees import LINK, SUBMODULE, adapters_in_tree
from adaptool.git.working import refuse_hidden, unwatched
from adaptool.tensors.files import open_file
from adaptool.tensors.pointers import LARGEST, Pointer, parse_pointer
from adaptool.versioning.kept.blobs import Blobs
from adaptool.versioning.record import LARGEST as LARGEST_MANIFEST
from adaptool.versioning.record import Record, read_record
from adaptool.versioning.recording import TEMPLATES, record_of, shipped
from adaptool.versions import MANIFEST_NAME, FileRecord, file_record

MOST_LINKS = 8


@dataclass(frozen=True)
class Side:
    """All files of a commit, or of the working tree (``commit`` None), and where their content is found."""

    repository: Repository
    commit: str | None
    label: str
    """What the user calls it."""
    files: Mapping[str, Blob]
    """By path; an oid of zeros is known to the working tree alone."""
    shared: Blobs | None = field(default=None, repr=False)
    """What reads this repository's blobs, where several sides have one for all."""

    @cached_property
    def adapters(self) -> Mapping[str, Kept]:
        """Every adapter by its folder."""
        found = adapters_in_tree(self.files)
        inner: dict[str, dict[str, Blob]] = {}
        for path, blob in self.files.items():
            owner, at, name = path.rpartition(f"/{TEMPLATES}") if not path.startswith(TEMPLATES) else ("", "/", "")
            if at and owner in found and blob.mode != SUBMODULE:
                inner.setdefault(owner, {})[f"{TEMPLATES}{name or path.removeprefix(TEMPLATES)}"] = blob
        return {folder: Kept(self, folder, {**files, **inner.get(folder, {})}) for folder, files in found.items()}

    @cached_property
    def blobs(self) -> Blobs:
        """What Git has, read through one process."""
        return self.shared or Blobs(self.repository)

    @cached_property
    def store(self) -> LfsStore:
        """Where the repository's LFS objects lie."""
        return LfsStore(self.repository)

    def resolved(self, blob: Blob) -> Blob:
        """The file that a link leads to, in the tree; NotFetchedError where it leads out of it."""
        path = blob.path
        for _ in range(MOST_LINKS):
            blob = self.files.get(path, blob)
            if blob.mode != LINK:
                return blob
            target = self._link(blob)
            path = os.path.normpath(PurePosixPath(path).parent / target).replace(os.sep, "/")
            if path.startswith(("..", "/")) or path not in self.files:
                raise NotFetchedError(f"{blob.path}: a link to {target}, which is not in this repository")
        raise FormatError(f"{blob.path}: a link that leads to itself")

    def _link(self, blob: Blob) -> str:
        if known(blob):
            return os.fsdecode(self.blobs.read(blob.oid, LARGEST))
        return os.readlink(self.repository.folder / blob.path)  # noqa: PTH115  (its text, not where it leads)

    def here(self, blob: Blob) -> Path | None:
        """Where the working tree has the file's content, a pointer or not; None where only Git has it."""
        if self.commit is not None:
            return None
        path = self.repository.folder / blob.path
        return path if not path.is_symlink() and path.is_file() else None

    def pointer(self, blob: Blob) -> Pointer | None:
        """The pointer kept in place of the file, None where the file itself is kept."""
        path = self.here(blob)
        if path is not None:
            return parse_pointer(open_file(path).read_all(LARGEST)) if path.stat().st_size < LARGEST else None
        small = self.blobs.size(blob.oid) < LARGEST
        return parse_pointer(self.blobs.read(blob.oid, LARGEST)) if small else None

    def read(self, blob: Blob, limit: int) -> bytes:
        """A small file's content: from Git where Git has it, so that a file nobody changed is not opened."""
        blob = self.resolved(blob)
        path = self.here(blob)
        try:
            if known(blob):
                return self.blobs.read(blob.oid, limit)
        except NotFetchedError:
            if path is None:
                raise
        if path is None:
            raise NotFetchedError(f"{blob.path}: is not here any more")
        return open_file(path).read_all(limit)

    def local(self, blob: Blob, scratch: Path) -> Path:
        """A file with the content: the working tree's or the LFS store's own, else a copy made in ``scratch``.

        Raises NotFetchedError where this clone has only a pointer, or not even that.
        """
        blob = self.resolved(blob)
        if (pointer := self.pointer(blob)) is not None:
            found = self.store.find(pointer)
            if found is None:
                raise not_fetched(pointer, blob.path)
            return found
        path = self.here(blob)
        if path is None:
            path = scratch / hashlib.sha256(os.fsencode(blob.path)).hexdigest()
            self.blobs.copy(blob.oid, path)
        return path


@dataclass(frozen=True, eq=False)
class Kept:
    """One adapter as a side keeps it; all that costs anything is asked for by name, and kept."""

    side: Side
    folder: str
    """From the root of the repository; "" is the root."""
    entries: Mapping[str, Blob]
    """Every file by its name from the folder."""

    @property
    def path(self) -> str:
        """As a user writes it."""
        return self.folder or "."

    @cached_property
    def shipped(self) -> Mapping[str, Blob]:
        """The files a manifest lists."""
        return {name: self.entries[name] for name in shipped(self.entries)}

    def unchanged(self, other: Kept) -> bool:
        """Whether Git knows that files and manifest are the same."""
        mine, others = ({**kept.shipped, **_manifest(kept)} for kept in (self, other))
        return mine.keys() == others.keys() and all(
            known(blob) and (blob.oid, blob.mode == LINK) == (others[name].oid, others[name].mode == LINK)
            for name, blob in mine.items()
        )

    @cached_property
    def stated(self) -> Record | None:
        """Its manifest, None where it has none. Raises FormatError where that cannot be read."""
        blob = self.entries.get(MANIFEST_NAME)
        if blob is None:
            return None
        return read_record(self.side.read(blob, LARGEST_MANIFEST), _below(self.folder, MANIFEST_NAME))

    @cached_property
    def readable(self) -> Record | None:
        """Its manifest, None where there is none that can be read."""
        try:
            return self.stated
        except AdaptoolError:
            return None

    @cached_property
    def actual(self) -> Record:
        """The record of what lies there. Raises NotFetchedError where the content does not, other AdaptoolErrors."""
        with self.opened() as folder:
            try:
                return record_of(folder, self.readable)
            except AdaptoolError as error:
                error.message = error.message.replace(f"{folder}/", _below(self.folder, "")).replace(
                    str(folder), self.path
                )
                raise

    @cached_property
    def files(self) -> Mapping[str, FileRecord]:
        """Size and SHA-256 of every shipped file, of an LFS pointer those it tells; a Xet pointer does not tell it."""
        return {name: self._file(name, blob) for name, blob in self.shipped.items()}

    def _file(self, name: str, blob: Blob) -> FileRecord:
        pointer = self.side.pointer(self.side.resolved(blob))
        if pointer is not None:
            tells = pointer.kind == "lfs" and not pointer.extended  # of an extended one the oid is of something else
            return FileRecord(name, pointer.size, pointer.oid if tells else None)
        with tempfile.TemporaryDirectory(prefix="adaptool-") as scratch:
            return replace(file_record(self.side.local(blob, Path(scratch)), hashed=True), name=name)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the folder that ``opened`` gives, for as many times as it is asked for; where it can be made at all."""
        if "_held" in self.__dict__:
            yield
            return
        with ExitStack() as stack:
            with suppress(AdaptoolError):
                self.__dict__["_held"] = stack.enter_context(self._laid_out())
            try:
                yield
            finally:
                self.__dict__.pop("_held", None)

    @contextmanager
    def opened(self) -> Iterator[Path]:
        """A folder that holds the adapter's files, its name the adapter's: the working tree's own where that has all.

        Raises NotFetchedError where the content of a file is not in this clone.
        """
        if "_held" in self.__dict__:
            yield self.__dict__["_held"]
            return
        with self._laid_out() as folder:
            yield folder

    @contextmanager
    def _laid_out(self) -> Iterator[Path]:
        own = self.side.repository.folder / self.folder
        if self.side.commit is None and all(self._lies(blob) for blob in self.shipped.values()):
            yield own
            return
        with tempfile.TemporaryDirectory(prefix="adaptool-") as scratch:
            name = own.name if self.folder else self.side.repository.folder.name
            folder = Path(scratch) / "adapter" / name
            folder.mkdir(parents=True)
            for inner, blob in self.entries.items():
                if inner in self.shipped or inner == MANIFEST_NAME:
                    (folder / inner).parent.mkdir(exist_ok=True)
                    (folder / inner).symlink_to(self.side.local(blob, Path(scratch)).absolute())
            yield folder

    def _lies(self, blob: Blob) -> bool:
        """Whether the working tree has the file itself."""
        return blob.mode != LINK and self.side.here(blob) is not None and self.side.pointer(blob) is None


def _manifest(kept: Kept) -> dict[str, Blob]:
    return {name: blob for name, blob in kept.entries.items() if name == MANIFEST_NAME}


def known(blob: Blob) -> bool:
    """Whether Git has the content under an oid."""
    return bool(blob.oid.strip("0"))


def commit_side(repository: Repository, commit: str, label: str, blobs: Blobs | None = None) -> Side:
    """A commit."""
    return Side(repository, commit, label, repository.tree(commit), blobs)


def working_side(repository: Repository, blobs: Blobs | None = None) -> Side:
    """The working tree: what Git tracks as it lies there now, and what is new and not ignored."""
    head = repository.commit("HEAD")
    tree = dict(repository.tree(head)) if head is not None else dict(repository.index())
    for path, (_, after) in (repository.changed(head) if head is not None else {}).items():
        if after is None:
            refuse_hidden(repository.folder / path)
            tree.pop(path, None)
        else:
            tree[path] = after
    for path in unwatched(repository):
        place = repository.folder / path
        if path in tree and os.path.lexists(place):
            tree[path] = Blob(path, "0" * 40, LINK if place.is_symlink() else "100644")
    for path in repository.untracked():
        if path.endswith("/"):  # another repository, which is not this one's
            continue
        link = (repository.folder / path).is_symlink()
        tree[path] = Blob(path, "0" * 40, LINK if link else "100644")
    if head is None:
        gone = [path for path in tree if not (repository.folder / path).exists()]
        tree = {path: replace(blob, oid="0" * 40) for path, blob in tree.items() if path not in gone}
    return Side(repository, None, "the working tree", tree, blobs)


def _below(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
