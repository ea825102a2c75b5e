"""The folder to be verified with every file in it: on this disk, or laid out whole from a Git revision.

What reads an adapter of a revision lays out what it needs; a signature is over all there is, and what it is not over
must show. So here nothing is left out, links stay links, and what was not fetched stays a pointer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from adaptool.errors import DiskError, FormatError, NotFetchedError, UnsupportedError
from adaptool.git.lfs import LfsStore
from adaptool.git.named import LONGEST_LINK, Source, open_source, split_revision
from adaptool.git.reader import Reader, not_here
from adaptool.git.repository import Blob, find_repository
from adaptool.git.trees import LINK, SUBMODULE
from adaptool.rules.files.listing import ENTRIES_LIMIT
from adaptool.tensors.locate import LAID_OUT, locate
from adaptool.tensors.pointers import LARGEST, parse_pointer


@contextmanager
def whole_folder(text: str) -> Iterator[Path]:
    """The folder that ``text`` names; that of a revision is removed afterwards. Raises AdaptoolError."""
    place = locate(text)
    top = next((folder for folder in (place, *place.parents) if str(folder) in LAID_OUT), None)
    if top is None:
        yield place
        return
    revision, root = split_revision(LAID_OUT[str(top)])
    repository = find_repository(Path())
    source = None if repository is None else open_source(repository, revision)
    if source is None or root is None:
        raise UnsupportedError(f"{text}: cannot be verified where it is", hint="check it out, and give its folder")
    with TemporaryDirectory(prefix="adaptool-") as scratch:
        inner = place.relative_to(top).as_posix()
        path = "/".join(part for part in (root, inner) if part not in ("", "."))
        folder = Path(scratch) / place.name
        folder.mkdir()
        try:
            _lay_out(source, path, folder)
        except OSError as error:
            raise DiskError(f"{text}: cannot be laid out: {error.strerror}", hint="is TMPDIR full?") from error
        LAID_OUT[str(folder)] = source.told(path)
        yield folder
        del LAID_OUT[str(folder)]


def _lay_out(source: Source, root: str, folder: Path) -> None:
    inside = f"{root}/" if root else ""
    blobs = [blob for path, blob in source.tree.items() if path.startswith(inside)]
    if len(blobs) > ENTRIES_LIMIT:
        raise UnsupportedError(f"{source.told(root)}: {len(blobs)} files are too many to be one adapter's")
    store = LfsStore(source.repository)
    with source.repository.reader() as reader:
        for blob in blobs:
            name = blob.path.removeprefix(inside)
            if any(part in ("", ".", "..") or part.casefold() == ".git" for part in name.split("/")):
                raise FormatError(f"{source.told(blob.path)}: no file may be called that")
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            _write(source, reader, store, blob, folder / name)


def _write(source: Source, reader: Reader, store: LfsStore, blob: Blob, out: Path) -> None:
    if blob.mode == SUBMODULE:
        raise UnsupportedError(f"{source.told(blob.path)}: a submodule inside of an adapter")
    size = reader.size(blob.oid)
    if size is None:
        raise NotFetchedError(f"{source.told(blob.path)}: not in this clone", hint=not_here(blob.oid).hint)
    if blob.mode == LINK:
        out.symlink_to(os.fsdecode(reader.read(blob.oid, LONGEST_LINK)))
        return
    content = reader.read(blob.oid, LARGEST) if size < LARGEST else b""
    pointer = parse_pointer(content)
    if pointer is not None and store.find(pointer) is not None:
        try:
            out.hardlink_to(store.open(pointer, source.told(blob.path)).resolve())
            return
        except OSError:  # the store is on another disk: the pointer will do
            pass
    source.repository.copy(blob.oid, out)
